"""`tunesmith evaluate`: did it help."""

from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tunesmith import api
from tunesmith.cli.output import STATUS_STYLE, console, json_option, mark, print_json
from tunesmith.evaluation.result import Change, Estimate, Evaluation
from tunesmith.planning.figures import probability


@click.command("evaluate")
@click.argument("run")
@click.option("--data", help="Evaluate on this file instead of the rows the run held out.")
@click.option("--prompt", metavar="FILE", help="A prompt for the base to try; default: what advise found best.")
@click.option("--advice", metavar="FILE", help="What `advise --write` wrote; kept in the run folder.")
@click.option("--metric", "metrics", multiple=True, metavar="MODULE:FUNCTION", help="A metric of your own; repeatable.")
@click.option("--bertscore", metavar="ENCODER", help="Add BERTScore with this encoder (a name or a folder).")
@click.option("--judge", metavar="URL", help="Let a model judge, at this OpenAI-compatible base URL.")
@click.option("--judge-model", metavar="NAME", help="The model that judges.")
@click.option("--run-code", is_flag=True, help="Run replies against the tests that rows carry, in a sandbox (pass@k).")
@click.option("--samples", default=1, show_default=True, help="Replies to each row for pass@k.")
@click.option(
    "--harness", metavar="TASKS", help="General tasks of lm-evaluation-harness: hellaswag,arc_easy or YAML files."
)
@json_option
def command(run: str, as_json: bool, harness: str | None, **options: Any) -> None:
    """Compare a run's tuned model with its base (and its prompted base) on the same held-out rows.

    \b
    Example:  tunesmith evaluate runs/tickets
              tunesmith evaluate runs/tickets --metric my_metrics:politeness
    """
    tasks = [] if harness is None else [name.strip() for name in harness.split(",") if name.strip()]
    evaluation = api.evaluate(run, harness=tasks, **options)
    if as_json:
        print_json(evaluation)
        return
    out = console()
    print_evaluation(out, evaluation)
    out.print(f"\nReport: {run}/report.html")


def print_evaluation(out: Console, evaluation: Evaluation) -> None:
    """Print the comparison table and the verdicts."""
    prompted = any(metric.over_prompted is not None for metric in evaluation.metrics)
    title = f"{evaluation.rows} held-out rows, {evaluation.task}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("metric")
    for heading in ("base", *(["prompted"] if prompted else []), "tuned", "difference (95% interval)", "p"):
        table.add_column(heading, justify="right")
    for metric in evaluation.metrics:
        values = [metric.base, *([metric.prompted] if prompted else []), metric.tuned]
        shown = ("" if value is None else _figure(value.value) for value in values)
        change = _change(metric.difference, evaluation.change(metric))
        table.add_row(metric.name, *shown, change, _p(metric.p))
        if metric.over_prompted is not None:
            over = _change(metric.over_prompted, metric.change(metric.over_prompted))
            table.add_row("[dim]  over prompted[/]", "", "", "", over, _p(metric.p_over_prompted))
    out.print(table)
    headline = evaluation.metrics[0]
    out.print(
        f"[dim]{escape(headline.name)} is the primary metric, chosen by the kind of task: the verdict rests on it. The "
        "others describe; of twenty, one differs by chance.[/]"
    )
    if headline.detectable is not None:
        smallest = f"{100 * headline.detectable:.0f} points" if headline.top == 1.0 else f"{headline.detectable:.3g}"
        out.print(f"{headline.rows} rows cannot show a difference in {headline.name} under {smallest}.")
    for signature in dict.fromkeys(metric.signature for metric in evaluation.metrics if metric.signature):
        out.print(f"[dim]{escape(signature)}[/]", soft_wrap=True)
    told = Table.grid(padding=(0, 1))  # so that lines that wrap stay beside their mark
    for skipped in evaluation.skipped:
        told.add_row(mark("note"), escape(skipped))
    for verdict in evaluation.verdicts:
        told.add_row(mark(verdict.status), escape(verdict.finding))
        told.add_row("", f"[dim]{escape(verdict.evidence)}[/]")
        if verdict.status != "good" and verdict.mend:
            told.add_row("", f"→ {escape(verdict.mend)}")
    out.print(told)


def _change(difference: Estimate, change: Change) -> str:
    """The difference with its interval, coloured by what it means."""
    text = f"{_figure(difference.value, '+')} ({_figure(difference.low, '+')} to {_figure(difference.high, '+')})"
    return text if change == "none" else f"[{STATUS_STYLE[change]}]{text}[/]"


def _figure(value: float, sign: str = "") -> str:
    return f"{value:{sign},.{3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0}f}"


def _p(value: float | None) -> str:
    return "" if value is None else probability(value)
