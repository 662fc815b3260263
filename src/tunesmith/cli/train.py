"""`tunesmith train`: fine-tune as a run spec says, with progress a person can read."""

from pathlib import Path

import click

from tunesmith import api
from tunesmith.cli.output import console, json_option, print_json
from tunesmith.cli.progress import TrainProgress
from tunesmith.errors import SpecError
from tunesmith.settings import first_process
from tunesmith.spec import load_spec


@click.command("train")
@click.argument("spec_file", metavar="RUN.YAML")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one key of the spec.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint; bit-identical on a CPU.")
@click.option("--processes", default=1, metavar="N", help="Train in N processes on this machine, a GPU each.")
@click.option("--on", type=click.Choice(["local", "ray"]), default="local", help="Where: here, or on a Ray cluster.")
@click.option("--workers", type=int, metavar="N", help="Of Ray; default: one for each GPU, or each machine.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    spec_file: str,
    overrides: tuple[str, ...],
    resume: bool,
    processes: int,
    on: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Fine-tune as RUN.YAML says; leaves the adapter, events, checkpoints and report in its output folder.

    \b
    Example:  tunesmith train run.yaml --set training.epochs=1
    Stop with Ctrl-C at any time; --resume continues from the checkpoint.
    On several machines:  torchrun --nnodes 2 ... -m tunesmith train run.yaml
    """
    if workers is not None and on != "ray":
        raise SpecError("--workers are those of a Ray cluster: add --on ray, or use --processes on this machine")
    if processes != 1 and on == "ray":
        raise SpecError("--processes are those of this machine: leave it out, or use --workers with --on ray")
    spec = load_spec(Path(spec_file), overrides)
    if not first_process():  # of several that a launcher started: only the first speaks
        ctx.exit(130 if api.train(spec, resume=resume).reason == "interrupted" else 0)
    if as_json:
        result = api.train(spec, resume=resume, processes=processes, on=on, workers=workers)
        print_json(result)
    else:
        out = console()
        with TrainProgress(out) as progress:
            result = api.train(spec, resume=resume, processes=processes, on=on, workers=workers, observer=progress)
        out.print(result.account(), soft_wrap=True)
    if result.reason == "interrupted":
        click.echo(f"interrupted; go on with: tunesmith train {spec_file} --resume", err=True)
        ctx.exit(130)
