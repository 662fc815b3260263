"""`tunesmith export`: weights that other programs load."""

import click

from tunesmith import api
from tunesmith.cli.output import json_option, print_json


@click.command("export")
@click.argument("run")
@click.option("--to", type=click.Choice(["merged"]), default="merged", show_default=True, help="What to make.")
@click.option("--output", help="Folder to write; default: RUN/merged.")
@json_option
def command(run: str, to: str, output: str | None, as_json: bool) -> None:
    """Merge a run's adapter into its base model, and check that the logits agree.

    \b
    Example:  tunesmith export runs/tickets --to merged
    """
    path = api.export(run, to=to, output=output)
    if as_json:
        print_json({"to": to, "path": str(path)})
    else:
        click.echo(f"Merged model, checked against base + adapter: {path}")
