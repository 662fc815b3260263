"""`tunesmith sweep`: which learning rate, how many epochs, which rank."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from tunesmith import api
from tunesmith.cli.output import console, json_option, print_json
from tunesmith.planning.figures import duration, number
from tunesmith.spec import load_spec
from tunesmith.training.events import Event, StartEvent, StepEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunesmith.training.sweep import SweepResult, TrialResult

BAR = 8
"""Columns of the bar of the highest loss; the lowest has one."""


@click.command("sweep")
@click.argument("spec_file", metavar="RUN.YAML")
@click.option("--trials", default=12, show_default=True, help="Runs in all, those of an earlier call included.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one key of the spec.")
@json_option
@click.pass_context
def command(ctx: click.Context, spec_file: str, trials: int, overrides: tuple[str, ...], as_json: bool) -> None:
    """Train RUN.YAML at several learning rates, epochs and ranks; keep the lowest validation loss.

    \b
    Example:  tunesmith sweep run.yaml --trials 12
    Stop with Ctrl-C at any time; the same command goes on from there.
    """
    spec = load_spec(Path(spec_file), overrides)
    with Console(stderr=True).status("the first trial", spinner="dots") as status:
        result = api.sweep(spec, trials=trials, tell=_above(status), observer=_into(status))
    if as_json:
        print_json(result)
    else:
        _print(result)
    if result.interrupted:
        click.echo(f"interrupted; go on with: tunesmith sweep {spec_file} --trials {trials}", err=True)
        ctx.exit(130)


def _above(status: Status) -> Callable[[str], None]:
    """Says a line and leaves it above the moving status."""
    return lambda line: status.console.print(line, markup=False, soft_wrap=True)


def _into(status: Status) -> Callable[[Event], None]:
    """Shows how far the trial under way is."""
    total = 0

    def show(event: Event) -> None:
        nonlocal total
        match event:
            case StartEvent():
                total = event.total_steps
            case StepEvent():
                status.update(f"step {event.step:,} of {total:,}, loss {event.loss:.3f}")
            case _:
                pass

    return show


def _print(result: SweepResult) -> None:
    """The response: every trial in the order of the learning rate, the height of its loss as a bar."""
    out = console()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("Learning rate", "Epochs", "Rank", result.measure[:1].upper() + result.measure[1:], "", "Time", ""):
        table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)
    losses = [trial.loss for trial in result.trials if trial.loss is not None]
    for trial in sorted(result.trials, key=lambda trial: (trial.learning_rate, trial.epochs, trial.rank or 0)):
        best = trial == result.best
        height = 0.0 if trial.loss is None else (trial.loss - min(losses)) / (max(losses) - min(losses) or 1.0)
        filled = 0 if trial.loss is None else 1 + round((BAR - 1) * height)
        table.add_row(
            number(trial.learning_rate),
            str(trial.epochs),
            "-" if trial.rank is None else str(trial.rank),
            "-" if trial.loss is None else f"{trial.loss:.4f}",
            Text("█" * filled, style="green" if best else "blue" if trial.status == "complete" else "dim"),
            duration(trial.seconds),
            "best" if best else _ended(trial),
            style="bold" if best else "",
        )
    out.print(table)
    if result.best is None:
        out.print("\nNo trial came to its end yet.")
        return
    out.print(
        f"\nThe best trial's run is {result.run}; evaluate it with: tunesmith evaluate {result.run}", soft_wrap=True
    )
    out.print(f"Its values as a spec: {result.spec}", soft_wrap=True)
    out.print(f"The response, drawn: {result.page}", soft_wrap=True)
    if result.note is not None:
        out.print(Text(f"! {result.note}", style="yellow"), soft_wrap=True)


def _ended(trial: TrialResult) -> str:
    match trial.status:
        case "complete":
            return ""
        case "pruned":
            return f"given up {trial.trained_share:.0%}"
        case status:
            return status
