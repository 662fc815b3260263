"""`tunesmith eject`: a run as a script of its own."""

import click

from tunesmith import api
from tunesmith.cli.output import json_option, print_json


@click.command("eject")
@click.argument("run")
@json_option
def command(run: str, as_json: bool) -> None:
    """Print RUN as a plain TRL/PEFT script: the same model, rows, adapter, objective and hyperparameters.

    The script reads the rows from RUN/trl, where they are written.

    \b
    Example:  tunesmith eject runs/tickets > train.py
    """
    script = api.eject(run)
    if as_json:
        print_json({"script": script})
    else:
        click.echo(script, nl=False)
