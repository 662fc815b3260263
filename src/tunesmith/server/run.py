"""Starts and stops a server: opens what it stands on, listens, and shuts down in order on SIGTERM or Ctrl-C."""

import fcntl
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import uvicorn

from tunesmith.errors import SpecError
from tunesmith.server import logs
from tunesmith.server.app import create_app
from tunesmith.server.auth import create_key
from tunesmith.server.catalogue import Catalogue
from tunesmith.server.service import assemble
from tunesmith.server.settings import ServerSettings
from tunesmith.server.store import open_store
from tunesmith.server.workflow import JobRunner

FIRST_OWNER = "default"
"""Whose key is made when a server starts without any."""

KEEP_ALIVE_SECONDS = 60
"""How long an idle connection stays: longer than clients keep theirs (httpx: 5 s), or they would meet it closing."""

SHUTDOWN_SECONDS = 10
"""How long open requests may still take after SIGTERM."""


def print_address(address: str, first_key: str | None) -> None:
    """Say where the server listens; the key is shown this once."""
    if first_key is not None:
        print(f"API key (shown once, keep it): {first_key}", flush=True)
    print(f"Serving on {address}", flush=True)
    print(f"Dashboard at {address.removesuffix('/v1')}/dashboard", flush=True)


def serve(settings: ServerSettings, announce: Callable[[str, str | None], None] = print_address) -> None:
    """Serve until told to stop. `announce` is told the address, and the first API key when one had to be made.

    Raises SpecError, StorageError or ModelError before anything is served.
    """
    with ExitStack() as stack:
        store = open_store(settings)
        stack.callback(store.close)
        if settings.database.startswith("sqlite"):
            stack.callback(_lock(settings.data_dir / "server.lock"))
        catalogue = Catalogue(settings, store)
        stack.callback(catalogue.close)
        listener = _listen(settings.host, settings.port)
        stack.callback(listener.close)
        first_key = None if store.list_keys() else create_key(store, FIRST_OWNER)
        runner = JobRunner(settings, store, catalogue)
        service = assemble(settings, store, catalogue, runner)
        logs.install()
        runner.start()
        stack.callback(runner.stop)
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(service),
                log_config=None,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        announce(f"http://{host}:{listener.getsockname()[1]}/v1", first_key)
        # uvicorn raises the signal that stopped it once more when it is done; what is on the stack must still happen.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda _number, _frame: None)
        server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise SpecError(f"--host {host} --port {port}: cannot listen: {error.strerror or error}") from error


def _lock(path: Path) -> Callable[[], None]:
    """Hold the data folder: one server per SQLite file. Returns what lets go of it. Raises SpecError."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise SpecError(
            f"--data-dir {path.parent}: another server is running on it; stop it, or give each its own folder"
        ) from error
    return file.close
