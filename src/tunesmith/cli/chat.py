"""`tunesmith chat`: talk with the model of a run, and with its base beside it."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tunesmith import api
from tunesmith.cli.output import console
from tunesmith.errors import RunError

if TYPE_CHECKING:
    from tunesmith.evaluation.talk import Chat, Reply

HELP = "/reset forgets the conversation, /base shows the base model's replies too, Ctrl-C stops a reply, Ctrl-D ends"


@click.command("chat")
@click.argument("run")
@click.option("--once", metavar="TEXT", help="Ask TEXT, print the reply and end; `-` reads it from standard input.")
@click.option("--base", is_flag=True, help="Show the base model's reply beside each.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line for each reply.")
def command(run: str, once: str | None, base: bool, as_json: bool) -> None:
    """Talk with the model of RUN in the terminal, or ask it each line of standard input.

    In the conversation: /reset forgets it, /base shows the base model's replies too, Ctrl-D ends.

    \b
    Example:  tunesmith chat runs/tickets
              tunesmith chat runs/tickets --once "My parcel is late." --json
    """
    chat = api.chat(run)
    out = console()
    if once is not None:
        text = sys.stdin.read().strip() if once == "-" else once
        _answer(out, chat, text, base=base, as_json=as_json)
        return
    interactive = sys.stdin.isatty() and not as_json
    if interactive:
        out.print(f"[dim]{HELP}[/]")
        if chat.system is not None:
            out.print(f"[dim]system: {escape(chat.system)}[/]")
    for line in _lines(interactive):
        match line:
            case "/reset":
                chat.reset()
                click.echo("the conversation is forgotten", err=True)
            case "/base":
                base = not base
                click.echo(f"base model: {'on' if base else 'off'}", err=True)
            case "/help":
                click.echo(HELP, err=True)
            case _ if line.startswith("/"):
                click.echo(f"{line.split()[0]}: no such command; {HELP}", err=True)
            case _:
                try:
                    _answer(out, chat, line, base=base, as_json=as_json)
                except RunError as error:  # an outgrown conversation; /reset mends it
                    if not interactive:
                        raise
                    click.echo(f"error: {error}", err=True)
                except KeyboardInterrupt:
                    if not interactive:
                        raise
                    click.echo("\nstopped; the turn is forgotten", err=True)


def _lines(interactive: bool) -> Iterator[str]:
    """What is typed, or the lines of standard input; blank ones are skipped."""
    while True:
        try:
            line = input("\n> " if interactive else "").strip()
        except EOFError:
            if interactive:
                click.echo()
            return
        if line:
            yield line


def _answer(out: Console, chat: "Chat", text: str, *, base: bool, as_json: bool) -> None:
    if as_json:
        tuned = chat.ask(text)
        result = {"text": text, "tuned": tuned, "base": chat.ask_base() if base else None}
        click.echo(msgspec.json.encode(result))
    elif base:
        _side_by_side(out, chat, text)
    else:
        _stream(out, chat, text)


def _stream(out: Console, chat: "Chat", text: str) -> None:
    """The reply as it comes."""
    reply = chat.ask(text, on_text=lambda piece: click.echo(piece, nl=False))
    click.echo()
    _note(out, reply)


def _side_by_side(out: Console, chat: "Chat", text: str) -> None:
    """Both replies in two columns, filled as they come."""
    said = {"base": "", "tuned": ""}

    def table() -> Table:
        columns = Table(expand=True)
        columns.add_column("base", ratio=1)
        columns.add_column("tuned", ratio=1)
        columns.add_row(Text(said["base"]), Text(said["tuned"]))
        return columns

    with Live(table(), console=out, refresh_per_second=8) as live:

        def add(who: str, piece: str) -> None:
            said[who] += piece
            live.update(table())

        reply = chat.ask(text, on_text=lambda piece: add("tuned", piece))
        chat.ask_base(on_text=lambda piece: add("base", piece))
    _note(out, reply)


def _note(out: Console, reply: "Reply") -> None:
    if out.is_terminal:
        rate = reply.reply_tokens / max(reply.seconds, 1e-9)
        cut = "" if reply.ended else f", cut at {reply.reply_tokens:,} tokens"
        out.print(f"[dim]{reply.reply_tokens:,} tokens, {rate:,.0f} tokens/s{cut}[/]")
