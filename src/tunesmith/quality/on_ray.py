"""`check --on ray`: the pass over the rows through Ray Data, the judgement at its end here.

A row of Ray's data set is a block of our rows as bytes, for our own readers know the line of every mistake and rows
have any shape; what comes back, in order, are facts and texts. So every node needs Tunesmith installed, and only a
model's folder, where one is given, must be seen by all. Blocks are sent a window at a time, which bounds the memory
here; each window costs Ray a fraction of a second to set up.
"""

import itertools
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from tunesmith.dataset.read import Block
from tunesmith.errors import RunError, TunesmithError
from tunesmith.quality.check import Observer
from tunesmith.ray_cluster import first_line, ray_cluster

BLOCKS_PER_CPU = 32
"""Of a window: about a second's work."""

BLOCKS_PER_TASK = 2

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
    with ray_cluster() as ray, _in_order():
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
        raise RunError(
            f"the Ray cluster lost the work; look at its nodes and run again ({first_line(error)})"
        ) from error


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
