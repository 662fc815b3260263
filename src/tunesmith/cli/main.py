"""The `tunesmith` command: what people type, what they read when it goes wrong, and the exit codes."""

import sys

import click

from tunesmith.errors import TunesmithError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tunesmith")
def cli() -> None:
    """Fine-tune only when it pays, and prove that it did."""


def main() -> None:
    """Run the command line; errors a person can cause are printed as they are and exit with 2."""
    try:
        cli()
    except TunesmithError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
