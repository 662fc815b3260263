"""`tunesmith serve`: the OpenAI-compatible server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tunesmith.errors import MissingDependencyError, SpecError
from tunesmith.server.settings import REQUESTS_PER_MINUTE, ServerSettings, database_url
from tunesmith.settings import http_url

DATA_DIR = "tunesmith-data"

data_dir_option = click.option(
    "--data-dir", default=DATA_DIR, show_default=True, help="Folder for files, jobs, models and the audit log."
)
database_option = click.option(
    "--database", metavar="URL", help="postgresql://… for several hosts; default: a SQLite file in the data folder."
)


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@database_option
@data_dir_option
@click.option("--models", "models_dir", metavar="DIR", help="Serve every model folder in DIR, by its name.")
@click.option(
    "--model", "models", multiple=True, metavar="[NAME=]MODEL", help="Also serve this folder or hub id, as NAME."
)
@click.option(
    "--runs",
    metavar="DIR",
    help="Show the runs in DIR on the dashboard, to everyone with a key; default: ./runs, on this machine only.",
)
@click.option(
    "--concurrent-jobs", default=1, show_default=True, type=click.IntRange(1), help="Jobs that train at once."
)
@click.option(
    "--rate-limit",
    default=REQUESTS_PER_MINUTE,
    show_default=True,
    type=click.IntRange(1),
    help="Requests a minute for each API key.",
)
@click.option(
    "--python-graders", is_flag=True, help="Let clients send Python that grades replies; it runs in a sandbox (Linux)."
)
@click.option(
    "--grader-url",
    metavar="URL",
    help="OpenAI-compatible endpoint that score_model graders ask; its key is in TUNESMITH_GRADER_KEY.",
)
@click.option(
    "--backend",
    metavar="URL",
    help="A running vLLM that generates for the model it serves; its key is in TUNESMITH_BACKEND_KEY.",
)
def command(
    host: str,
    port: int,
    database: str | None,
    data_dir: str,
    models_dir: str | None,
    models: tuple[str, ...],
    runs: str | None,
    concurrent_jobs: int,
    rate_limit: int,
    python_graders: bool,
    grader_url: str | None,
    backend: str | None,
) -> None:
    """Fine-tuning and inference with OpenAI's API on your own machine.

    The embedded model is always there, as `embedded`. On its first start it prints an API key; `tunesmith keys`
    makes more.

    \b
    Example:  tunesmith serve --models ~/models
              tunesmith serve --model gpt-4o-mini=embedded
    """
    with server_extra():
        from tunesmith.server.catalogue import parse_model
        from tunesmith.server.run import serve

    folder = Path(data_dir)
    loopback = host in ("127.0.0.1", "::1", "localhost")
    settings = ServerSettings(
        data_dir=folder,
        database=database_url(database, folder),
        host=host,
        port=port,
        models_dir=None if models_dir is None else Path(models_dir),
        models=dict(parse_model(model) for model in models),
        runs_dir=_runs_folder(runs, loopback=loopback),
        concurrent_jobs=concurrent_jobs,
        requests_per_minute=rate_limit,
        python_graders=python_graders,
        grader_url=_server("--grader-url", grader_url),
        backend=_server("--backend", backend),
    )
    if not loopback:
        click.echo(f"warning: {host} can be reached from outside; put a proxy with TLS in front of it", err=True)
    serve(settings)


def _server(option: str, url: str | None) -> str | None:
    if url is not None and http_url(url) is None:
        raise SpecError(f"{option} {url}: give the URL of a server, such as http://127.0.0.1:8001/v1")
    return url


def _runs_folder(runs: str | None, *, loopback: bool) -> Path | None:
    """The folder whose runs are shown; by default those here, only to this machine: they quote their data."""
    if runs is None:
        return Path("runs") if loopback else None
    if not Path(runs).is_dir():
        raise SpecError(f"--runs {runs}: no such folder; give the one that your runs' folders are in")
    return Path(runs)


@contextmanager
def server_extra() -> Iterator[None]:
    """Around an import of the server: raises MissingDependencyError that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"serving needs {error.name}; install it with: pip install 'tunesmith[server]'"
        ) from error
