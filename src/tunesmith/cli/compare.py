"""`tunesmith compare`: people judge, blind and side by side."""

import click
from rich.console import Console
from rich.markup import escape

from tunesmith import api
from tunesmith.cli.output import console, json_option, print_json
from tunesmith.evaluation.human.results import HumanResults


@click.command("compare")
@click.argument("run")
@click.argument("others", nargs=-1, metavar="[OTHER_RUN]...")
@click.option("--port", default=0, help="Port on the loopback interface; default: a free one.")
@click.option("--no-open", is_flag=True, help="Print the address without opening a browser.")
@click.option("--export", metavar="FILE", help="Write the preferences as pairs that dpo takes, and serve no page.")
@json_option
def command(run: str, others: tuple[str, ...], port: int, no_open: bool, export: str | None, as_json: bool) -> None:
    """Open a page on which people say which reply is better, not knowing whose it is; Ctrl-C ends it.

    Needs the run's evaluation; more runs add their tuned models. Judgements are kept in the run folder.

    \b
    Example:  tunesmith compare runs/tickets
              tunesmith compare runs/tickets --export pairs.jsonl
              tunesmith compare runs/tickets --json
    """
    out = console()

    def announce(address: str) -> None:
        out.print(f"Judge at {address}\nCtrl-C ends it; judgements are saved as they are made.", soft_wrap=True)

    serve = export is None and not as_json
    results = api.compare(
        run, others=others, export=export, serve=serve, port=port, open_browser=not no_open, announce=announce
    )
    if as_json:
        print_json(results)
        return
    print_results(out, results)
    if export is not None:
        out.print(f"Preference pairs: {export}")


def print_results(out: Console, results: HumanResults) -> None:
    """Print who was preferred, how surely, and whether the raters agree."""
    judged = ", ".join(f"{escape(rater.name)} {rater.judged}" for rater in results.raters) or "nobody yet"
    out.print(f"{results.duels} pairs to judge; judged: {judged}")
    for pair in results.pairs:
        share = ""
        if pair.share is not None:
            value, low, high = pair.share.value, pair.share.low, pair.share.high
            share = f": preferred in {value:.0%} ({low:.0%} to {high:.0%}), sign test p = {pair.p:.2g}"
        out.print(
            f"{pair.first} {pair.first_wins}, {pair.second} {pair.second_wins}, ties {pair.ties}, "
            f"both bad {pair.both_bad}; {pair.first}{share}",
            soft_wrap=True,
        )
    for strength in results.strengths:
        chance = strength.chance
        out.print(
            f"{strength.model}: beats an average model in {chance.value:.0%} ({chance.low:.0%} to {chance.high:.0%})"
        )
    if results.agreement is not None:
        out.print(f"Krippendorff's alpha {results.agreement:.2f}")
