"""`tunesmith jobs`: fine-tuning at a hosted provider."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tunesmith import api
from tunesmith.cli.output import console, json_option, mark, print_json
from tunesmith.errors import ProviderError
from tunesmith.spec import load_spec
from tunesmith.training.events import EvalEvent, Event, MessageEvent, StepEvent, VerdictEvent

if TYPE_CHECKING:
    from tunesmith.providers.protocol import Job
    from tunesmith.providers.submit import Offer

_LEVEL_MARKS = {"warn": "warn", "warning": "warn", "error": "fail"}

_PLACES = "openai|together|URL"

provider_option = click.option("--provider", required=True, metavar=_PLACES, help="Where; a URL speaks OpenAI's wire.")
elsewhere_option = click.option(
    "--provider", metavar=_PLACES, help="RUN is the id of a job there, as `jobs list` shows it, not a folder."
)


@click.group("jobs")
def command() -> None:
    """Train a run spec at a hosted provider: data checked and price shown first, then uploaded, watched and evaluated.

    Keys are read from OPENAI_API_KEY, TOGETHER_API_KEY or, for a URL, TUNESMITH_API_KEY; they are never stored.

    \b
    Example:  tunesmith jobs submit run.yaml --provider openai
    """


@command.command("submit", short_help="Check data and price, then start the job.")
@click.argument("spec_file", metavar="RUN.YAML")
@provider_option
@click.option("--model", help="The model's name at the provider; default: the spec's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one key of the spec.")
@click.option("--yes", is_flag=True, help="Do not ask; the price is accepted.")
@click.option("--detach", is_flag=True, help="Do not wait for the end; `jobs watch` does later.")
@json_option
@click.pass_context
def submit(
    ctx: click.Context,
    spec_file: str,
    provider: str,
    model: str | None,
    overrides: tuple[str, ...],
    yes: bool,
    detach: bool,
    as_json: bool,
) -> None:
    """Check the data of RUN.YAML against the provider's rules, show the price, and start the job.

    \b
    Example:  tunesmith jobs submit run.yaml --provider openai
    """
    named = () if model is None else (f"model={model}",)
    spec = load_spec(Path(spec_file), (*overrides, *named))

    def confirm(offer: "Offer") -> bool:
        _show_offer(offer)
        return yes or click.confirm("Upload the data and start the job?", err=True)

    job = api.submit_job(spec, provider=provider, confirm=confirm)
    if job is None:
        click.echo("nothing was uploaded or started", err=True)
        ctx.exit(1)
    if detach:
        if as_json:
            print_json(job)
        else:
            click.echo(f"Job {job.id} is {job.status}. Watch it with: tunesmith jobs watch {spec.output}")
        return
    click.echo(f"Job {job.id} is {job.status}; Ctrl-C leaves it running.", err=True)
    _watch(spec.output, as_json=as_json)


@command.command("watch", short_help="Follow the job of RUN to its end and evaluate it.")
@click.argument("run")
@elsewhere_option
@json_option
def watch(run: str, provider: str | None, as_json: bool) -> None:
    """Follow the job of RUN to its end, then compare its model with the base; goes on where it was interrupted.

    A job that was submitted elsewhere is only followed.

    \b
    Example:  tunesmith jobs watch runs/tickets
              tunesmith jobs watch ftjob-abc123 --provider openai
    """
    _watch(run, provider, as_json=as_json)


@command.command("list")
@provider_option
@json_option
def list_(provider: str, as_json: bool) -> None:
    """List the account's fine-tuning jobs, newest first.

    \b
    Example:  tunesmith jobs list --provider openai
    """
    jobs = api.list_jobs(provider)
    if as_json:
        print_json(jobs)
        return
    table = Table()
    for heading in ("job", "status", "model", "created", "result"):
        table.add_column(heading, overflow="fold")
    for job in jobs:
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.created))
        table.add_row(job.id, job.status, job.model, created, job.tuned_model or job.error or "")
    console().print(table)


@command.command("cancel")
@click.argument("run")
@elsewhere_option
@json_option
def cancel(run: str, provider: str | None, as_json: bool) -> None:
    """Stop the job of RUN.

    \b
    Example:  tunesmith jobs cancel runs/tickets
              tunesmith jobs cancel ftjob-abc123 --provider openai
    """
    job = api.cancel_job(run, provider=provider)
    if as_json:
        print_json(job)
    else:
        click.echo(f"Job {job.id} is {job.status}.")


@command.command("download", short_help="Fetch metrics or weights of a finished job.")
@click.argument("run")
@elsewhere_option
@click.option("--output", help="Folder to write; default: RUN/provider, for a job's id the folder here.")
@json_option
def download(run: str, provider: str | None, output: str | None, as_json: bool) -> None:
    """Fetch what the provider gives out of the finished job of RUN: metrics, or the adapter's weights.

    \b
    Example:  tunesmith jobs download runs/tickets
              tunesmith jobs download ftjob-abc123 --provider openai
    """
    files = api.download_job(run, provider=provider, output=output)
    if as_json:
        print_json([str(file) for file in files])
    else:
        click.echo("\n".join(str(file) for file in files))


def _watch(run: str, provider: str | None = None, *, as_json: bool) -> None:
    """Follow, evaluate and print; a job that failed is an error."""
    out = console()
    try:
        job, evaluation = api.watch_job(
            run, provider=provider, observer=None if as_json else lambda event: _show_event(out, event)
        )
    except KeyboardInterrupt:
        where = run if provider is None else f"{run} --provider {provider}"
        click.echo(f"interrupted; the job goes on, watch it with: tunesmith jobs watch {where}", err=True)
        sys.exit(130)
    if as_json:
        print_json({"job": job, "evaluation": evaluation})
    elif job.status == "succeeded":
        from tunesmith.cli.evaluate import print_evaluation

        out.print(f"{mark('pass')} {escape(job.tuned_model or job.id)}", soft_wrap=True)
        if evaluation is not None:
            print_evaluation(out, evaluation)
        if provider is None:
            out.print(f"\nReport: {escape(run)}/report.html", soft_wrap=True)
    _raise_if_failed(job)


def _raise_if_failed(job: "Job") -> None:
    if job.status == "failed":
        raise ProviderError(f"job {job.id} failed: {job.error or 'the provider gives no reason'}")
    if job.status == "cancelled":
        raise ProviderError(f"job {job.id} was cancelled")


def _show_offer(offer: "Offer") -> None:
    """The price and what it is for, on standard error: standard output is for results."""
    price = "not known" if offer.usd is None else f"${offer.usd:,.2f} ({offer.price_source})"
    held_out = f", {offer.validation_rows:,} to validate on" if offer.validation_rows else ""
    lines = [
        f"{offer.provider}: {offer.model}",
        f"  rows      {offer.rows:,}{held_out}",
        f"  tokens    about {offer.tokens * offer.epochs:,} ({offer.tokens:,} in each of {offer.epochs} epochs)",
        f"  price     {price}",
        *(f"  note      {note}" for note in offer.notes),
    ]
    click.echo("\n".join(lines), err=True)


def _show_event(out: Console, event: Event) -> None:
    match event:
        case MessageEvent():
            sign = _LEVEL_MARKS.get(event.level)
            out.print(f"  {mark(sign) + ' ' if sign else ''}{escape(event.message)}", soft_wrap=True)
        case StepEvent():
            out.print(f"  step {event.step:>5}  loss {event.loss:.4f}")
        case EvalEvent():
            out.print(
                f"  step {event.step:>5}  validation loss {event.loss:.4f}{' (best so far)' if event.best else ''}"
            )
        case VerdictEvent():
            out.print(f"  {mark(event.status)} {escape(event.finding)}")
        case _:
            pass
