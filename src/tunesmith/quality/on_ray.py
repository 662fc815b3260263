"""`check --on ray`: the pass over the rows through Ray Data, the judgement at its end here.

A row of Ray's data set is a block of our rows as bytes, for our own readers know the line of every mistake and rows
have any shape; what comes back, in order, are facts and texts. So every node needs Tunesmith installed, and only a
model's folder, where one is given, must be seen by all. Blocks are sent a window at a time, which bounds the memory
here; each window costs Ray a fraction of a second to set up.
"""

import itertools
import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from tunesmith.dataset.read import Block
from tunesmith.errors import MissingDependencyError, RunError, SpecError, TunesmithError
from tunesmith.quality.check import Observer

BLOCKS_PER_CPU = 32
"""Of a window: about a second's work."""

BLOCKS_PER_TASK = 2

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
    with _cluster() as ray, _in_order():
        unused = pickle.dumps(list(observers))  # before they gather what no worker needs
        window = BLOCKS_PER_CPU * max(int(ray.cluster_resources().get("CPU", 1)), 1)

        def see(batch: dict[str, Any]) -> dict[str, Any]:
            fresh = pickle.loads(unused)  # noqa: S301 (this process wrote it)
            return {"seen": [_seen(observe, fresh, packed) for packed in batch["block"]]}

        while some := [{"block": pickle.dumps(block)} for block in itertools.islice(blocks, window)]:
            data = ray.data.from_items(some, override_num_blocks=max(len(some) // BLOCKS_PER_TASK, 1))
            yield from _results(ray, data.map_batches(see, batch_size=BLOCKS_PER_TASK))


def _seen(
    observe: Callable[[Sequence[Observer[Any]], int, Block], Any], observers: Sequence[Observer[Any]], packed: bytes
) -> bytes:
    """What `observe` returns, or what it says must be mended, as bytes: Ray would only give the words of an error."""
    try:
        return pickle.dumps(observe(observers, *pickle.loads(packed)))  # noqa: S301 (this process wrote it)
    except TunesmithError as error:
        return pickle.dumps(error)


def _results(ray: Any, data: Any) -> Iterator[Any]:
    try:
        for row in data.iter_rows():
            result = pickle.loads(row["seen"])  # noqa: S301 (our own worker wrote it)
            if isinstance(result, TunesmithError):
                raise result
            yield result
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise RunError(f"the Ray cluster lost the work; look at its nodes and run again ({_line(error)})") from error


@contextmanager
def _in_order() -> Iterator[None]:
    """Ray Data gives rows back in order, and says nothing while it works."""
    import ray.data

    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.execution_options.preserve_order, context.enable_progress_bars, log.level
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before[:2]
        log.setLevel(before[2])


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


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
