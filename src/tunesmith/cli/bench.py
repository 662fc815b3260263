"""`tunesmith bench`: how fast training is on this machine, and beside TRL."""

import click
from rich.table import Table

from tunesmith import api
from tunesmith.cli.output import console, json_option, print_json


@click.command("bench")
@click.option("--against", type=click.Choice(["trl"]), help="Run this library on the same rows, taking turns.")
@click.option("--case", "cases", multiple=True, metavar="CASE", help="sft, shared, dpo or full; all when not given.")
@click.option("--steps", default=2, show_default=True, type=click.IntRange(min=1), help="Measured steps of 16 rows.")
@click.option(
    "--rounds", default=2, show_default=True, type=click.IntRange(min=1), help="Times each engine has a turn."
)
@json_option
def command(against: str | None, cases: tuple[str, ...], steps: int, rounds: int, as_json: bool) -> None:
    """Measure training steps on a 135M-parameter Llama shape with random weights.

    Each measurement is a process of its own; allow several minutes with --against.

    \b
    Example:  tunesmith bench --against trl --case sft
    """
    if as_json:
        print_json(api.bench(against=against, cases=cases, steps=steps, rounds=rounds))
        return
    out = console()
    with out.status("starting") as status:
        result = api.bench(against=against, cases=cases, steps=steps, rounds=rounds, observer=status.update)
    table = Table("case", "engine", "tokens/s", "s/step", "peak memory", "of the ceiling", "Tunesmith is faster")
    for line in result.lines:
        table.add_row(
            line.case,
            line.engine,
            f"{line.tokens_per_second:,.0f}",
            f"{line.seconds_per_step:.2f}",
            f"{line.peak_bytes / 2**30:.2f} GiB",
            "" if line.ceiling_share is None else f"{line.ceiling_share:.0%}",
            "" if line.times_faster is None else f"{line.times_faster:.2f} times",
        )
    out.print(table)
    ceiling = max(line.ceiling_flops for line in result.lines)
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    out.print(f"{result.threads} threads; matrix ceiling {ceiling / 1e9:,.0f} GFLOP/s; {versions}", soft_wrap=True)
