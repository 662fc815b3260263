"""How verbs print: people get Rich text on the terminal, machines get one JSON document."""

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from tunesmith import storage

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")

STATUS_STYLE = {"pass": "green", "good": "green", "note": "blue", "warn": "yellow", "fail": "red", "bad": "red"}
STATUS_MARK = {"pass": "✓", "good": "✓", "note": "i", "warn": "!", "fail": "✗", "bad": "✗"}


def console() -> Console:
    """Standard output for people; plain text when it is not a terminal."""
    return Console(highlight=False, soft_wrap=False)


def print_json(result: Any) -> None:
    """Print `result` (any value msgspec can encode) as indented JSON on standard output."""
    click.echo(encode(result))


def write_json(target: str, result: Any) -> None:
    """Write `result` as JSON to the file `target`, or to standard output when it is `-`."""
    if target == "-":
        print_json(result)
    else:
        storage.write_text(Path(target), encode(result) + "\n")


def encode(result: Any) -> str:
    """`result` as indented JSON text."""
    return msgspec.json.format(msgspec.json.encode(result, enc_hook=str), indent=2).decode()


def mark(status: str) -> str:
    """A coloured tick, exclamation mark or cross for a status, as Rich markup."""
    return f"[{STATUS_STYLE[status]}]{STATUS_MARK[status]}[/]"
