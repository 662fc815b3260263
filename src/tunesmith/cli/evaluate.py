"""`tunesmith evaluate`: did it help."""

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tunesmith import api
from tunesmith.cli.output import console, json_option, mark, print_json
from tunesmith.evaluation.result import Estimate, Evaluation


@click.command("evaluate")
@click.argument("run")
@click.option("--data", help="Evaluate on this file instead of the rows the run held out.")
@json_option
def command(run: str, data: str | None, as_json: bool) -> None:
    """Compare a run's tuned model with its base on the same held-out rows.

    \b
    Example:  tunesmith evaluate runs/tickets
    """
    evaluation = api.evaluate(run, data=data)
    if as_json:
        print_json(evaluation)
        return
    out = console()
    print_evaluation(out, evaluation)
    out.print(f"\nReport: {run}/report.html")


def print_evaluation(out: Console, evaluation: Evaluation) -> None:
    """Print the comparison table and the verdicts."""
    table = Table(title=f"{evaluation.rows} held-out rows, {evaluation.task}", title_justify="left")
    table.add_column("metric")
    for heading in ("base", "tuned", "difference (95% interval)"):
        table.add_column(heading, justify="right")
    for metric in evaluation.metrics:
        style = "" if not metric.significant else ("green" if _improved(metric.difference, metric.better) else "red")
        table.add_row(
            metric.name,
            f"{metric.base.value:.3f}",
            f"{metric.tuned.value:.3f}",
            f"[{style}]{_interval(metric.difference)}[/]" if style else _interval(metric.difference),
        )
    out.print(table)
    for verdict in evaluation.verdicts:
        out.print(f"{mark(verdict.status)} {escape(verdict.finding)} [dim]{escape(verdict.evidence)}[/]")
        if verdict.status != "good" and verdict.mend:
            out.print(f"  → {escape(verdict.mend)}")


def _improved(difference: Estimate, better: str) -> bool:
    return (difference.value > 0) == (better == "higher")


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"
