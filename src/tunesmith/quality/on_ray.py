"""`check --on ray`: the pass over the rows as tasks on a Ray cluster, the judgement at its end here.

Tasks of Ray's core rather than Ray Data: a batch of rows is no table (tools and metadata have any shape), its facts
must come back in row order, and files are read by our own readers, which know the line of every mistake. What is sent
is a block of lines, what returns are facts and texts; so every node needs Tunesmith installed, and only a model's
folder, where one is given, must be seen by all.
"""

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from tunesmith.dataset.read import Block
from tunesmith.errors import MissingDependencyError, RunError, SpecError, TunesmithError
from tunesmith.quality.check import Observer

BLOCKS_PER_CPU = 3
"""In flight at once: one at work, one on its way there, one on its way back."""

ANSWER_SECONDS = 5.0
"""A cluster's head takes a connection within milliseconds."""

Seen = TypeVar("Seen")


def observe_on_ray(
    observe: Callable[[Sequence[Observer[Any]], int, Block], Seen],
    blocks: Iterator[tuple[int, Block]],
    observers: Sequence[Observer[Any]],
) -> Iterator[Seen]:
    """What `observe` returns for each block, given its first row's index, in order.

    Uses the cluster that this process is connected to, else joins the one that RAY_ADDRESS names, else starts one on
    this machine and stops it at the end. Raises what `observe` raises, MissingDependencyError without Ray, SpecError
    for a RAY_ADDRESS where no cluster is, RunError when the workers are lost again and again.
    """
    with _cluster() as ray:
        task = ray.remote(observe)
        shared = ray.put(list(observers))
        most = BLOCKS_PER_CPU * max(int(ray.cluster_resources().get("CPU", 1)), 1)
        waiting: deque[Any] = deque()
        for start, block in blocks:
            waiting.append(task.remote(shared, start, block))
            if len(waiting) > most:
                yield _result(ray, waiting.popleft())
        while waiting:
            yield _result(ray, waiting.popleft())


@contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected; a connection made here ends with the block."""
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
        raise SpecError(f"RAY_ADDRESS={address}: no Ray cluster could be joined there ({_line(error)})") from error
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


def _result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, TunesmithError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise RunError(f"the Ray cluster lost the work; look at its nodes and run again ({_line(error)})") from error


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
