"""`tunesmith data`: check, clean, convert, split and look at data sets."""

from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tunesmith import api, storage
from tunesmith.cli.output import console, json_option, mark, print_json, write_json
from tunesmith.errors import SpecError
from tunesmith.quality.report import CheckReport, Finding

SHOWN_ROWS = 3
"""Offending rows printed per finding; `--json` and `--html` carry more."""


@click.group("data")
def command() -> None:
    """Check, clean, convert, split and look at data sets.

    Formats: OpenAI chat, Anthropic, Alpaca, ShareGPT, prompt-completion, preference pairs, plain text,
    as JSONL, JSON, CSV, TSV or Parquet, also .gz and .zst; `-` is standard input.
    """


@command.command("check", short_help="The quality checklist; exit 1 when a check fails.")
@click.argument("files", nargs=-1, required=True)
@click.option("--task", help="classification, extraction, style, domain or code; inferred when left out.")
@click.option("--model", help="Count tokens with this model's tokenizer: lengths, truncation, padding.")
@click.option("--eval", "eval_file", help="Evaluation file: report its rows that leak from the training files.")
@click.option("--semantic", metavar="MODEL", help="Embedding model (folder or hub id): find rows that mean the same.")
@click.option("--names", metavar="MODEL", help="spaCy pipeline (folder or package): find names and places too; slow.")
@click.option("--profanity", is_flag=True, help="Look for profane words in the outputs (extra `profanity`).")
@click.option("--review", "review_file", metavar="OUT", help="Write 100 random rows as JSONL for a person to judge.")
@click.option("--on", type=click.Choice(["local", "ray"]), default="local", help="Where: here, or on a Ray cluster.")
@click.option("--json", "json_out", metavar="OUT", help="Write the report as JSON to OUT; `-` is standard output.")
@click.option("--html", "html_out", metavar="OUT", help="Write the report as a self-contained page to OUT.")
@click.pass_context
def check(
    ctx: click.Context,
    files: tuple[str, ...],
    task: str | None,
    model: str | None,
    eval_file: str | None,
    semantic: str | None,
    names: str | None,
    profanity: bool,
    review_file: str | None,
    on: str,
    json_out: str | None,
    html_out: str | None,
) -> None:
    """Run the quality checklist; exit 1 when a check fails.

    \b
    Example:  tunesmith data check tickets.jsonl --html check.html
    """
    for written in (html_out, review_file, None if json_out == "-" else json_out):
        if written is not None:
            if Path(written).resolve() in (Path(file).resolve() for file in (*files, eval_file) if file):
                raise SpecError(f"{written}: is an input, which is never overwritten; choose another output")
            storage.must_be_writable_file(Path(written))
    report = api.check(
        files,
        task=task,
        model=model,
        eval_file=eval_file,
        names=names,
        profanity=profanity,
        semantic=semantic,
        review_file=review_file,
        on=on,
    )
    if html_out is not None:
        from tunesmith.report.check_page import write_check_page

        write_check_page(report, Path(html_out))
    if json_out is not None:
        write_json(json_out, report)
    if json_out != "-":
        print_check(console(), report)
        for name, written in (("Page", html_out), ("Rows to review", review_file)):
            if written is not None:
                click.echo(f"{name}: {written}")
    if report.status == "fail":
        ctx.exit(1)


def print_check(out: Console, report: CheckReport) -> None:
    """Print every finding with its first rows, its mend and the command that applies it."""
    broken = f", {report.broken_rows:,} broken" if report.broken_rows else ""
    out.print(f"[bold]{escape(', '.join(report.files))}[/]: {report.rows:,} rows{broken}, {report.seconds:.1f} s")
    out.print(f"Task: {escape(report.task)} [dim]({escape(report.task_reason)})[/]\n")
    for finding in report.findings:
        _print_finding(out, finding)
    failed = sum(finding.status == "fail" for finding in report.findings)
    warned = sum(finding.status == "warn" for finding in report.findings)
    passed = len(report.findings) - failed - warned
    out.print(f"\n{mark(report.status)} {passed} passed, {warned} to look at, {failed} failed")


def _print_finding(out: Console, finding: Finding) -> None:
    told = Table.grid(padding=(0, 1))  # so that lines that wrap stay beside their mark
    told.add_row(mark(finding.status), f"[bold]{escape(finding.check)}[/]  {escape(finding.finding)}")
    if finding.status != "pass":
        for row in finding.rows[:SHOWN_ROWS]:
            told.add_row("", f"  [dim]{escape(row.where)}[/]  {escape(row.note)}")
        if finding.count > SHOWN_ROWS and finding.rows:
            told.add_row("", f"  [dim]… {finding.count - SHOWN_ROWS:,} more[/]")
        if finding.mend:
            told.add_row("", f"→ {escape(finding.mend)}")
    out.print(told)
    if finding.status != "pass" and finding.command:
        out.print(f"    [cyan]{escape(finding.command)}[/]", soft_wrap=True)  # in one piece, to be copied


@command.command("convert", short_help="Rewrite a data set in another format.")
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--to", required=True, help="openai, anthropic, alpaca, sharegpt, prompt-completion, preference or text.")
@click.option(
    "--lossy", is_flag=True, help="Convert even where the format cannot carry something, and say what is lost."
)
@json_option
def convert(source: str, target: str, to: str, lossy: bool, as_json: bool) -> None:
    """Rewrite a data set in another format; OUT's ending chooses the container.

    \b
    Example:  tunesmith data convert alpaca.json chat.jsonl --to openai
    """
    from tunesmith.dataset.convert import convert as run

    conversion = run(source, target, to=to, lossy=lossy)
    if as_json:
        print_json(conversion)
        return
    click.echo(f"{conversion.rows:,} row{'s' if conversion.rows != 1 else ''} written to {target} as {to}")
    for loss in conversion.losses:
        click.echo(f"  lost: {loss}")


@command.command("clean", short_help="Write the mended set, and a log of what was changed.")
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--drop-broken", is_flag=True, help="Drop rows that cannot be read.")
@click.option("--drop-empty", is_flag=True, help="Drop rows whose output is empty.")
@click.option("--drop-duplicates", is_flag=True, help="Keep the first of identical rows.")
@click.option("--drop-near-duplicates", is_flag=True, help="Keep the first of nearly identical rows.")
@click.option("--drop-contradictions", is_flag=True, help="Drop rows that answer the same input differently.")
@click.option("--drop-refusals", is_flag=True, help='Drop rows whose output is a refusal or "as an AI" boilerplate.')
@click.option("--fix-mojibake", is_flag=True, help="Repair text that was decoded with the wrong encoding.")
@click.option("--redact-pii", is_flag=True, help="Replace personal data with stable placeholders such as <EMAIL_1>.")
@click.option("--names", metavar="MODEL", help="spaCy pipeline (folder or package) with which to redact names too.")
@json_option
def clean(source: str, target: str, names: str | None, as_json: bool, **mends: bool) -> None:
    """Write the mended set to OUT, and a line for every changed or dropped row to OUT.log.jsonl.

    \b
    Example:  tunesmith data clean raw.jsonl clean.jsonl --drop-broken --redact-pii
    """
    from tunesmith.quality.clean import clean as run

    result = run(source, target, names=names, **mends)
    if as_json:
        print_json(result)
        return
    click.echo(f"{result.rows_read:,} rows read, {result.rows_written:,} written to {target}")
    for what, count in result.actions.items():
        click.echo(f"  {what}: {count:,}")
    click.echo(f"Every change: {result.log}")


@command.command("split", short_help="Train and holdout files, near-duplicates on one side.")
@click.argument("source", metavar="IN")
@click.option("--holdout", type=float, default=0.1, show_default=True, help="Share of the rows to hold out.")
@click.option("--out", "folder", required=True, metavar="DIR", help="Folder for the two files.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed holds out the same rows.")
@json_option
def split(source: str, holdout: float, folder: str, seed: int, as_json: bool) -> None:
    """Split into train and holdout files so that near-duplicates never fall on both sides.

    \b
    Example:  tunesmith data split tickets.jsonl --holdout 0.1 --out splits
    """
    from tunesmith.dataset.split import split_file

    result = split_file(source, folder, holdout=holdout, seed=seed)
    if as_json:
        print_json(result)
        return
    click.echo(f"{result.train_rows:,} rows to {result.train}, {result.holdout_rows:,} to {result.holdout}")


@command.command("show", short_help="One row's tokens as the model will see them.")
@click.argument("file")
@click.option("--model", default="embedded", show_default=True, help="Whose tokenizer and chat template to use.")
@click.option("--row", type=click.IntRange(min=1), default=1, show_default=True, help="Which row, counted from 1.")
@json_option
def show(file: str, model: str, row: int, as_json: bool) -> None:
    """Show one row's tokens as the model will see them, coloured by trained and not trained.

    \b
    Example:  tunesmith data show tickets.jsonl --model embedded --row 3
    """
    from tunesmith.dataset.show import show_row, shown_tokens
    from tunesmith.models.load import load_tokenizer

    chosen, tokenizer = api.row(file, row), load_tokenizer(model)
    if as_json:
        print_json(shown_tokens(chosen, tokenizer))
        return
    console().print(show_row(chosen, tokenizer))
