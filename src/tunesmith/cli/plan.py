"""`tunesmith plan`: what will it take."""

from pathlib import Path

import click
from rich.console import Console

from tunesmith import api, storage
from tunesmith.cli.output import console, json_option, print_json
from tunesmith.errors import StorageError
from tunesmith.planning.plan import Plan, plan_to_spec
from tunesmith.planning.show import show_plan
from tunesmith.spec import dump_spec


@click.command("plan")
@click.argument("data")
@click.option("--model", required=True, help="`embedded`, a model folder, or a hub id.")
@click.option("--gpu", help='Does it fit on this one? For example "A100 80GB".')
@click.option("--gpus", default=1, metavar="N", help="How many of them train together; memory is that of each.")
@click.option("--write", "spec_file", metavar="RUN.YAML", help="Write the run spec that follows the plan.")
@click.option("--exact", is_flag=True, help="Also trace a training step, without weights; takes up to minutes.")
@click.option("--prices", metavar="TOML", help="Your own prices, over the built-in table.")
@click.option("--budget", type=float, metavar="USD", help="Dollars there are for training.")
@click.option("--monthly-calls", type=int, help="Calls to answer in a month, for their total.")
@click.option("--larger", metavar="MODEL", help="The model to ask instead, hosted or open, for the break-even.")
@click.option("--html", "page", metavar="PAGE.HTML", help="Write the plan as a page, with its plots.")
@json_option
def command(
    data: str,
    model: str,
    gpu: str | None,
    gpus: int,
    spec_file: str | None,
    exact: bool,
    prices: str | None,
    budget: float | None,
    monthly_calls: int | None,
    larger: str | None,
    page: str | None,
    as_json: bool,
) -> None:
    """Say what fine-tuning MODEL on DATA needs: memory per method, cost, hyperparameters with their reasons.

    \b
    Example:  tunesmith plan tickets.jsonl --model embedded --write run.yaml
    """
    plan = api.plan(
        data,
        model,
        gpu=gpu,
        gpus=gpus,
        exact=exact,
        prices=prices,
        budget=budget,
        monthly_calls=monthly_calls,
        larger=larger,
    )
    if spec_file is not None:
        write_spec(Path(spec_file), plan, data)
    if page is not None:
        from tunesmith.report.plan_page import write_plan_page

        write_plan_page(plan, Path(page))
    if as_json:
        print_json(plan)
        return
    print_plan(console(), plan)
    if spec_file is not None:
        processes = "" if gpus == 1 else f" --processes {gpus}"
        click.echo(f"\nRun spec: {spec_file}; train it with: tunesmith train {spec_file}{processes}")


def print_plan(out: Console, plan: Plan) -> None:
    """Print the plan for people."""
    out.print(show_plan(plan))


def write_spec(path: Path, plan: Plan, data: str) -> None:
    """Write the plan's run spec to a new file. Raises StorageError when `path` exists: it may hold somebody's edits."""
    if path.exists():
        raise StorageError(f"--write {path}: the file exists; remove it or give another name")
    storage.write_text(path, dump_spec(plan_to_spec(plan, data)))
