"""`tunesmith advise`: should this be fine-tuned at all."""

import sys
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from tunesmith import api
from tunesmith.advice.result import Advice, Needs
from tunesmith.advice.show import show_advice
from tunesmith.cli.output import console, json_option, print_json


@click.command("advise")
@click.argument("data")
@click.option("--model", required=True, help="`embedded`, a model folder, a hub id, or a name at the endpoint.")
@click.option("--docs", help="Documents that may hold the answers: a file or a folder.")
@click.option(
    "--endpoint", metavar="URL", help="Ask an OpenAI-compatible endpoint; the key is read from OPENAI_API_KEY."
)
@click.option("--embeddings", metavar="MODEL", help="Search by meaning, too, with this sentence-embedding model.")
@click.option("--rows", default=100, show_default=True, help="Held-out rows to measure on.")
@click.option("--target", type=float, help="The score that is good enough; 0.95 (free text: 0.7) unless given.")
@click.option("--fresh-data/--no-fresh-data", default=None, help="Do the answers change after training?")
@click.option("--latency-budget", type=float, metavar="MS", help="Milliseconds that a call may take.")
@click.option("--monthly-calls", type=int, metavar="N", help="Calls expected in a month.")
@click.option("--yes/--no", "answer", default=None, help="Answer what is left to ask with yes or no; ask nothing.")
@click.option("--write", metavar="FILE", help="Keep the advice as JSON, for `evaluate --advice` and the report.")
@click.option("--prices", metavar="TOML", help="Your own prices, over the built-in table.")
@json_option
def command(
    data: str,
    model: str,
    fresh_data: bool | None,
    latency_budget: float | None,
    monthly_calls: int | None,
    answer: bool | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure prompts, examples and retrieval on held-out rows of DATA, then say whether to fine-tune.

    \b
    Example:  tunesmith advise tickets.jsonl --model embedded --write advice.json
              tunesmith advise faq.jsonl --model NAME --endpoint URL --docs docs/
    """
    needs = Needs(answer if fresh_data is None else fresh_data, latency_budget, monthly_calls)
    if answer is None and not as_json and sys.stdin.isatty() and sys.stdout.isatty():
        needs = ask(needs)
    out = console()
    err = Console(stderr=True)
    with err.status("loading the model", spinner="dots") as status:
        advice = api.advise(
            data,
            model,
            needs=needs,
            tell=lambda name: status.update(f"asking: {name}"),
            **options,
        )
    if as_json:
        print_json(advice)
    else:
        print_advice(out, advice)
        if file := options["write"]:
            out.print(f"\nKept in {escape(file)}; after training: tunesmith evaluate RUN --advice {escape(file)}")


def ask(needs: Needs) -> Needs:
    """Ask a person what cannot be measured and was not given; an empty answer leaves it open."""
    fresh, budget, calls = needs.fresh_data, needs.latency_budget, needs.monthly_calls
    if fresh is None:
        fresh = click.confirm("Do the answers change after training (prices, stock, news)?", default=False)
    if budget is None:
        budget = _number("Milliseconds a call may take (Enter: no limit)")
    if calls is None:
        volume = _number("Calls in a month (Enter: not known)")
        calls = None if volume is None else int(volume)
    return Needs(fresh, budget, calls)


def print_advice(out: Console, advice: Advice) -> None:
    """Print the advice for people."""
    out.print(show_advice(advice))


def _number(question: str) -> float | None:
    while True:
        text = click.prompt(question, default="", show_default=False).strip().replace(",", "")
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if value > 0:
            return value
        click.echo("a number above 0, please")
