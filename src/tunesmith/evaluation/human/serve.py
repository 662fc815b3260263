"""Runs the page until it is interrupted."""

import secrets
import socket
import webbrowser
from collections.abc import Callable

from tunesmith.errors import MissingDependencyError, SpecError
from tunesmith.evaluation.human.duels import Board
from tunesmith.evaluation.human.store import Store

HOST = "127.0.0.1"


def serve(
    run: str, board: Board, store: Store, *, port: int, open_browser: bool, announce: Callable[[str], None]
) -> None:
    """Serve the page on the loopback interface until Ctrl-C; `announce` is told its address, `port` 0 is any free one.

    Raises SpecError when the port is taken, MissingDependencyError without the extra `compare`.
    """
    try:
        import uvicorn

        from tunesmith.evaluation.human.page import make_app
    except ImportError as error:
        raise MissingDependencyError(
            "the page needs starlette and uvicorn: pip install 'tunesmith[compare]'"
        ) from error
    token = secrets.token_urlsafe(24)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise SpecError(f"--port {port}: cannot listen there ({error}); give another, or leave it out") from error
        address = f"http://{HOST}:{listening.getsockname()[1]}/?token={token}"
        server = uvicorn.Server(uvicorn.Config(make_app(run, board, store, token), log_level="warning"))
        listening.listen()
        announce(address)
        if open_browser:
            webbrowser.open(address)
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:  # how uvicorn says that it was stopped by Ctrl-C
            return
