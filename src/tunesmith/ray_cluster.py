"""The Ray cluster of `--on ray`, for a check as for a training run.

One that merely runs on this machine is not joined: it is somebody else's work, and RAY_ADDRESS is how to ask for it.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tunesmith.errors import MissingDependencyError, SpecError

ANSWER_SECONDS = 5.0
"""A cluster's head takes a connection within milliseconds."""


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """Ray, connected: where this process is connected already, else to the cluster that RAY_ADDRESS names, else to one
    that is started on this machine. A connection made here ends with the block, and with it a cluster started here.

    Raises MissingDependencyError without Ray, SpecError for a RAY_ADDRESS where no cluster is.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("--on ray needs Ray: pip install 'tunesmith[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves them beside any other work on the machine
    if address != "local":
        _must_answer(address)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        if address == "local":
            raise
        raise SpecError(f"RAY_ADDRESS={address}: no Ray cluster could be joined there ({first_line(error)})") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _must_answer(address: str) -> None:
    """Raise SpecError when nothing listens at `HOST:PORT`: Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto` and other words are Ray's to understand
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise SpecError(
            f"RAY_ADDRESS={address}: nothing answers there ({error}); start the cluster or unset it"
        ) from error


def first_line(error: Exception) -> str:
    """What there is to say of an error of Ray's, whose messages run to pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
