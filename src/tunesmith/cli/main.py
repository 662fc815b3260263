"""The `tunesmith` command: what people type, what they read when it goes wrong, and the exit codes.

Commands are loaded when they are called, so `--help` costs no import of a training library.
Exit codes: 0 done; 1 a check found what must be mended; 2 the input was wrong; 130 interrupted.
"""

import importlib
import os
import sys

import click

from tunesmith.errors import TunesmithError
from tunesmith.settings import first_process

COMMANDS = {
    "demo": ("tunesmith.cli.demo", "The whole workflow on the embedded model and sample data."),
    "data": ("tunesmith.cli.data", "Check, clean, convert, split and look at data sets."),
    "advise": ("tunesmith.cli.advise", "Should this be fine-tuned: prompt, few-shot and retrieval measured first."),
    "plan": ("tunesmith.cli.plan", "Memory, cost and hyperparameters for a data set and a model."),
    "train": ("tunesmith.cli.train", "Fine-tune as a run spec says."),
    "sweep": ("tunesmith.cli.sweep", "Learning rate, epochs and rank by trial: the lowest validation loss wins."),
    "evaluate": ("tunesmith.cli.evaluate", "Tuned against base on held-out rows, with intervals and verdicts."),
    "compare": ("tunesmith.cli.compare", "People judge base against tuned, blind and side by side, on a local page."),
    "eject": ("tunesmith.cli.eject", "Print a run as a plain TRL/PEFT script."),
    "export": ("tunesmith.cli.export", "Turn a run into weights other programs load: merged, GGUF, Ollama, adapter."),
    "chat": ("tunesmith.cli.chat", "Talk with a run's model, and with its base beside it."),
    "serve": ("tunesmith.cli.serve", "Fine-tuning and inference with OpenAI's API on your own machine."),
    "keys": ("tunesmith.cli.keys", "Create, list and revoke the server's API keys."),
    "jobs": ("tunesmith.cli.jobs", "Hosted fine-tuning: submit, list, watch, cancel, download."),
    "bench": ("tunesmith.cli.bench", "Training speed and memory on this machine, and beside TRL."),
}
"""Name → the module that defines it and its one-line help, in the order of the work."""


class LazyGroup(click.Group):
    """A group whose commands are imported on use; listing them reads only `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the verb's command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs, in the order of the work"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="tunesmith", message="tunesmith %(version)s")
def cli() -> None:
    """Fine-tune only when it pays, and prove that it did.

    \b
    Start with:  tunesmith demo
    Then:        tunesmith data check tickets.jsonl
                 tunesmith plan tickets.jsonl --model embedded --write run.yaml
                 tunesmith train run.yaml
                 tunesmith evaluate runs/tickets
    """


def main() -> None:
    """Run the command line; errors a person can cause are printed as they are and exit with 2."""
    try:
        cli()
    except TunesmithError as error:
        if first_process():
            click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        # The reader (`| head`) went away; point stdout elsewhere so that the interpreter's own flush is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
