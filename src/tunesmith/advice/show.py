"""The advice as Rich renderables that read well on a terminal of 80 columns."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunesmith.advice.decision import points
from tunesmith.advice.result import Advice, Alternative
from tunesmith.evaluation.result import Estimate
from tunesmith.planning.figures import dollars, duration


def show_advice(advice: Advice) -> RenderableType:
    """The recommendation first, then the baselines, the way through the tree, and the alternatives."""
    parts: list[RenderableType] = [Text(advice.summary, style="bold"), Text()]
    if advice.baselines:
        parts += [_baselines(advice), Text()]
    parts += [_steps(advice), Text()]
    if advice.training is not None and advice.recommendation.startswith("fine-tune"):
        parts += [_training(advice), Text()]
    parts += [_alternatives(advice), Text()]
    parts += [_list("What would change this", advice.would_change), Text()]
    parts += [Text(f"Pitfall avoided: {advice.pitfall}")]
    parts += [Text(f"! {note}", style="dim") for note in advice.notes]
    return Group(*parts)


def _baselines(advice: Advice) -> Group:
    table = _table("Without training", advice.metric, "95% interval", "Tokens", "Time", "1,000 calls")
    for column in table.columns[1:]:
        column.justify = "right"
    for baseline in advice.baselines:
        table.add_row(
            baseline.name,
            points(baseline.score.value),
            _interval(baseline.score),
            f"{baseline.prompt_tokens:,.0f}+{baseline.reply_tokens:,.0f}",
            _seconds(baseline.latency_seconds),
            dollars(baseline.usd_per_thousand_calls),
            style="bold" if baseline.name == advice.best else "",
        )
    title = f"{advice.model} on {advice.held_out} held-out rows of {advice.rows:,} ({advice.task})"
    return Group(Text(title, style="bold"), table)


def _steps(advice: Advice) -> Group:
    lines: list[RenderableType] = [Text("The decision", style="bold")]
    for step in advice.steps:
        style = "green" if step.answer == "yes" else "yellow"
        lines.append(Text.assemble(f"{step.question} ", (step.answer.upper(), style)))
        lines.append(Text(f"  {step.evidence}", style="dim"))
    lines.append(Text.assemble("→ ", (advice.recommendation, "bold")))
    return Group(*lines)


def _training(advice: Advice) -> Text:
    training = advice.training
    assert training is not None  # noqa: S101  # the caller looked
    where = "" if training.gpu is None else f" on one {training.gpu}"
    taken = "" if training.hours is None else f", about {duration(training.hours * 3600)}".replace("about <", "under ")
    return Text(f"Training: {training.model}, {training.method}{where}{taken}, {dollars(training.usd)}")


def _alternatives(advice: Advice) -> Group:
    table = _table("Approach, best when", "Cost, effort", "Latency", "Here")
    for column, width in zip(table.columns, (29, 12, 17, 14), strict=True):  # 80 with the space between them
        column.width = width
    for row in advice.alternatives:
        what = Text.assemble(row.approach, (f"\n{row.best_when}", "dim"))
        table.add_row(what, f"{row.cost}, {row.effort}", row.latency_impact, _here(advice, row))
    return Group(Text("The alternatives", style="bold"), table)


def _here(advice: Advice, row: Alternative) -> str:
    told = []
    if row.score is not None:
        told.append(points(row.score.value))
    if row.upfront_usd is not None:
        told.append(f"${row.upfront_usd:,.0f} once with the work")
    if row.usd_per_thousand_calls is not None:
        calls = advice.needs.monthly_calls
        told.append(
            f"{dollars(row.usd_per_thousand_calls)} per 1,000"
            if calls is None
            else f"{dollars(row.usd_per_thousand_calls * calls / 1_000)} a month"
        )
    return ", ".join(told) or "not measured"


def _list(title: str, lines: tuple[str, ...]) -> Group:
    return Group(Text(title, style="bold"), *(Text(f"• {line}") for line in lines))


def _interval(score: Estimate) -> str:
    return f"{points(score.low)} to {points(score.high)}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{1_000 * seconds:,.0f} ms" if seconds < 1 else duration(seconds)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column)
    return table
