"""`tunesmith evaluate`: did it help."""

from typing import Any

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
@click.option("--prompt", metavar="FILE", help="A prompt for the base to try; default: the instruction advise found.")
@click.option("--metric", "metrics", multiple=True, metavar="MODULE:FUNCTION", help="A metric of your own; repeatable.")
@click.option("--bertscore", metavar="ENCODER", help="Add BERTScore with this encoder (a name or a folder).")
@click.option("--judge", metavar="URL", help="Let a model judge, at this OpenAI-compatible base URL.")
@click.option("--judge-model", metavar="NAME", help="The model that judges.")
@click.option("--run-code", is_flag=True, help="Run replies against the tests that rows carry, in a sandbox (pass@k).")
@click.option("--samples", default=1, show_default=True, help="Replies to each row for pass@k.")
@json_option
def command(run: str, as_json: bool, **options: Any) -> None:
    """Compare a run's tuned model with its base (and its prompted base) on the same held-out rows.

    \b
    Example:  tunesmith evaluate runs/tickets
              tunesmith evaluate runs/tickets --prompt prompt.txt --metric my_metrics:politeness
    """
    evaluation = api.evaluate(run, **options)
    if as_json:
        print_json(evaluation)
        return
    out = console()
    print_evaluation(out, evaluation)
    out.print(f"\nReport: {run}/report.html")


def print_evaluation(out: Console, evaluation: Evaluation) -> None:
    """Print the comparison table and the verdicts."""
    prompted = any(metric.prompted is not None for metric in evaluation.metrics)
    table = Table(title=f"{evaluation.rows} held-out rows, {evaluation.task}", title_justify="left")
    table.add_column("metric")
    for heading in ("base", *(["prompted"] if prompted else []), "tuned", "difference (95% interval)", "p"):
        table.add_column(heading, justify="right")
    for metric in evaluation.metrics:
        style = "" if not metric.significant else ("green" if _improved(metric.difference, metric.better) else "red")
        values = [metric.base, *([metric.prompted] if prompted else []), metric.tuned]
        table.add_row(
            metric.name,
            *("" if value is None else f"{value.value:.3f}" for value in values),
            f"[{style}]{_interval(metric.difference)}[/]" if style else _interval(metric.difference),
            "" if metric.p is None else f"{metric.p:.2g}",
        )
    out.print(table)
    headline = evaluation.metrics[0]
    if headline.detectable is not None:
        smallest = f"{100 * headline.detectable:.0f} points" if headline.top == 1.0 else f"{headline.detectable:.3g}"
        out.print(f"{headline.rows} rows cannot show a difference in {headline.name} under {smallest}.")
    for signature in dict.fromkeys(metric.signature for metric in evaluation.metrics if metric.signature):
        out.print(f"[dim]{escape(signature)}[/]", soft_wrap=True)
    for skipped in evaluation.skipped:
        out.print(f"{mark('note')} {escape(skipped)}")
    for verdict in evaluation.verdicts:
        out.print(f"{mark(verdict.status)} {escape(verdict.finding)} [dim]{escape(verdict.evidence)}[/]")
        if verdict.status != "good" and verdict.mend:
            out.print(f"  → {escape(verdict.mend)}")


def _improved(difference: Estimate, better: str) -> bool:
    return (difference.value > 0) == (better == "higher")


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"
