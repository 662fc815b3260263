"""The plan as Rich renderables that read well on a terminal of 80 columns."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunesmith.planning.cost import SELF_HOSTED, Cost
from tunesmith.planning.data_facts import CHARACTERS_PER_TOKEN, OPENAI_ENCODING
from tunesmith.planning.figures import calls, dollars, duration, number, size
from tunesmith.planning.plan import METHOD_NAMES, MethodPlan, Plan
from tunesmith.planning.volume import Volume, Way

RATING_STYLE = {"too few": "red", "minimum": "yellow", "good": "green", "excellent": "green"}


def show_plan(plan: Plan) -> RenderableType:
    """The answer first, then the data, memory per method, hyperparameters with their reasons, and costs."""
    parts: list[RenderableType] = [Text(plan.answer, style="bold"), Text(), data_line(plan), Text()]
    parts += [_memory(plan), Text(), _hyperparameters(plan), Text()]
    if plan.costs:
        parts += [_costs(plan), Text()]
    if plan.volume:
        parts += [_volume(plan.volume), Text()]
    parts += [Text(f"! {warning}", style="yellow") for warning in plan.warnings]
    if not plan.warnings:
        parts.pop()
    return Group(*parts)


def data_line(plan: Plan) -> Text:
    """How large the data is, and whether that is enough."""
    data = plan.data
    about = "about " if data.counted_by == "estimate" else ""
    return Text.assemble(
        f"{data.rows:,} rows, {about}{data.tokens:,} tokens, {data.supervised_share:.0%} of them trained on; ",
        f"half the rows under {data.median:,}, 99% under {data.p99:,}. ",
        ("Size: ", ""),
        (data.rating, RATING_STYLE[data.rating]),
        f"; {data.advice}.",
    )


def _memory(plan: Plan) -> Group:
    table = _table("Method", "Trains", "One row", rows(plan.micro_batch), "Rule of thumb")
    for column in table.columns[1:]:
        column.justify = "right"
    traced = any(method.traced_bytes is not None for method in plan.methods)
    if traced:
        table.add_column("Traced", justify="right")
    table.add_column(fits_where(plan))
    for method in plan.methods:
        table.add_row(
            METHOD_NAMES[method.method],
            "-" if method.trained_share is None else f"{method.trained_share:.2%}",
            size(method.one_row_bytes),
            size(method.peak_bytes),
            "-" if method.rule_of_thumb is None else f"~{size(round(method.rule_of_thumb * 1e9))}",
            *(["-" if method.traced_bytes is None else size(method.traced_bytes)] if traced else []),
            Text(fits(method), style=FITTING_STYLE.get(method.micro_batch, "green")),
            style="bold" if method.method == plan.method else "",
        )
    on_each = "" if plan.gpus == 1 else f" on each of {plan.gpus} GPUs"
    return _titled(f"Memory{on_each}: {plan.model.name}, {plan.model.parameters:,} parameters", table)


def fits_where(plan: Plan) -> str:
    """What `fits` is about."""
    if plan.gpu is None:
        return "Smallest GPU" if plan.gpus == 1 else f"Smallest {plan.gpus} GPUs"
    return f"On {plan.gpu}" if plan.gpus == 1 else f"On each {plan.gpu}"


FITTING_STYLE = {None: "", 0: "red"}
"""By micro-batch; larger ones are green."""


def fits(method: MethodPlan) -> str:
    """The rows that fit on the plan's GPU, or how many GPUs it takes; where none is asked for, the smallest for one."""
    if method.micro_batch is None:
        return method.gpus[0] if method.gpus else "none known"
    if method.micro_batch:
        how = [name for name, so in (("sharded", method.sharded), ("checkpointed", method.checkpointing)) if so]
        return f"{' and '.join(how) or 'fits'}, {rows(method.micro_batch)}"
    return "does not fit" if method.gpus_needed is None else f"takes {method.gpus_needed} of them"


def _hyperparameters(plan: Plan) -> Group:
    table = _table("", "Value", "Typical", "Why")
    table.columns[1].justify = table.columns[2].justify = "right"
    for setting in plan.hyperparameters:
        typical = (
            "" if setting.low is None or setting.high is None else f"{number(setting.low)} to {number(setting.high)}"
        )
        table.add_row(
            setting.name, Text(number(setting.value), style="bold"), typical, Text(setting.reason, style="dim")
        )
    return _titled("Hyperparameters", table)


def _costs(plan: Plan) -> Group:
    table = _table("Provider", "Model", "Training", "Time", "In/out per 1M", "As of")
    table.columns[2].justify = table.columns[3].justify = table.columns[4].justify = "right"
    for cost in plan.costs:
        over = plan.budget_usd is not None and cost.training_usd is not None and cost.training_usd > plan.budget_usd
        training = Text(dollars(cost.training_usd), style="red" if over else "")
        table.add_row(cost.provider, cost.model, training, _hours(cost.hours), inference(cost), cost.as_of)
    title = f"Cost of {plan.total_tokens:,} training tokens ({plan.total_steps:,} steps)"
    if plan.budget_usd is not None:
        title += f"; red is over the budget of ${plan.budget_usd:,.2f}"
    return Group(_titled(title, table), Text(openai_count(plan), style="dim"))


def inference(cost: Cost) -> str:
    """Dollars for a million tokens read and written."""
    if cost.input_per_million_tokens is None or cost.output_per_million_tokens is None:
        return "GPU only" if cost.provider == SELF_HOSTED else "-"
    return f"${cost.input_per_million_tokens:.2f}/${cost.output_per_million_tokens:.2f}"


def openai_count(plan: Plan) -> str:
    """How the tokens were counted that OpenAI's prices are for."""
    if plan.data.openai_tokens is not None:
        return f"OpenAI counts {plan.data.openai_tokens:,} tokens an epoch ({OPENAI_ENCODING})."
    data = plan.data
    estimate = round(data.characters / CHARACTERS_PER_TOKEN)
    if data.counted_by == "estimate":
        counted = "an estimate of four characters a token: good to a tenth in English, further off in code or else"
    else:
        counted = (
            f"this model's {data.tokens:,} tokens an epoch; by OpenAI's own they may be nearer {estimate:,} "
            f"(four characters a token, as in English)"
        )
    return (
        f"OpenAI's prices are reckoned by {counted}. For its own count: pip install 'tunesmith[tokens]' and once, with "
        f"a network, python -c \"import tiktoken; tiktoken.get_encoding('{OPENAI_ENCODING}')\""
    )


def _volume(volume: Volume) -> Group:
    table = _table("Way to answer", "Once", "1,000 calls", "Prompt/reply", "Tuning pays from")
    for column in table.columns[1:]:
        column.justify = "right"
    if volume.monthly_calls is not None:
        table.add_column("A month", justify="right")
    for way in (volume.tuned, *volume.others):
        pays = "" if way is volume.tuned else pays_from(way)
        month = [] if volume.monthly_calls is None else [dollars(way.month_usd)]
        tokens = f"{way.prompt_tokens:,}/{way.reply_tokens:,}"
        table.add_row(
            way.name,
            dollars(way.once_usd) if way.once_usd else "-",
            dollars(way.thousand_calls_usd),
            tokens,
            pays,
            *month,
        )
    calls = "" if volume.monthly_calls is None else f"; {volume.monthly_calls:,} calls a month"
    basis = Text(f"{volume.tuned.basis}; a GPU that idles costs the same.", style="dim")
    return Group(_titled(f"Break-even{calls}", table), basis)


def pays_from(way: Way) -> str:
    """From which call on the tuned model is cheaper, in words."""
    match way.break_even_calls:
        case None:
            return "never"
        case 0:
            return "the first call"
        case count:
            return calls(count)


def rows(count: int) -> str:
    """A number of rows, in words that agree."""
    return "1 row" if count == 1 else f"{count:,} rows"


def _hours(hours: float | None) -> str:
    return "-" if hours is None else duration(hours * 3600)


def _titled(title: str, table: Table) -> Group:
    return Group(Text(title, style="bold"), table)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column)
    return table
