"""The pass over the files: every row is read and looked at once, and what the judgements need of it is kept.

This process only finds where rows end and hands blocks of them to worker processes, which decode them, run all
observers and return what little is to be gathered, in order. Small sets stay in this process, since starting workers
costs more than looking at the rows.
"""

import gc
import itertools
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

from msgspec import Struct

from tunesmith.dataset.conversation import BrokenRow
from tunesmith.dataset.read import Block, read_blocks, rows_of
from tunesmith.quality.check import SHOWN_ROWS, Observer, Row, RowTexts, row_texts
from tunesmith.quality.on_ray import observe_on_ray
from tunesmith.quality.rows import RowBatch, RowWriter, row_batch

WORKERS_FROM_BLOCKS = 8
"""With fewer blocks (of 500 rows) one process is done before others have started."""


class Observed(Struct, frozen=True):
    """What a block leaves: each observer's facts, the readable rows, the first of the broken ones and their number."""

    facts: list[Any]
    rows: RowBatch
    broken: list[BrokenRow]
    broken_count: int


@dataclass
class Gathered:
    """What a pass leaves beside the facts: the readable rows' texts, the first broken rows and their number."""

    rows: RowTexts
    broken: list[BrokenRow] = field(default_factory=list)
    broken_count: int = 0


def observe_files(
    files: Sequence[str], observers: Sequence[Observer[Any]], *, workers: int | None = None, on: str = "local"
) -> Gathered:
    """Every observer has gathered every row of `files` when it returns.

    `workers` defaults to the cores this process may use; `on="ray"` takes a Ray cluster instead. Raises DataError when
    a file cannot be read at all, and what an observer raises.
    """
    blocks = _numbered(files)
    if on == "ray":
        stream = observe_on_ray(observe_block, blocks, observers)
    else:
        first = list(itertools.islice(blocks, WORKERS_FROM_BLOCKS))
        blocks = itertools.chain(first, blocks)
        workers = workers or cores()
        if len(first) == WORKERS_FROM_BLOCKS and workers > 1:
            stream = _in_workers(blocks, observers, workers)
        else:
            stream = (observe_block(observers, *block) for block in blocks)
    writer = RowWriter()
    broken: list[BrokenRow] = []
    broken_count = 0
    for observed in stream:
        writer.append(observed.rows)
        broken += observed.broken[: SHOWN_ROWS - len(broken)]
        broken_count += observed.broken_count
        for observer, facts in zip(observers, observed.facts, strict=True):
            observer.add(facts)
    return Gathered(writer.rows(), broken, broken_count)


def observe_block(observers: Sequence[Observer[Any]], start: int, block: Block) -> Observed:
    """What `observers` see in the rows of `block`, the first of which is row `start` of all files."""
    rows: list[Row] = []
    broken: list[BrokenRow] = []
    broken_count = 0
    index = start - 1
    for row in rows_of(block):
        if isinstance(row, BrokenRow):  # one for each of the row's mistakes
            before, index = index, start + row.number - block.number
            broken_count += index != before
            broken.append(row)
        else:
            index += 1
            rows.append(Row(index, row, *row_texts(row)))
    facts = [observer.observe(rows) for observer in observers]
    return Observed(facts, row_batch(rows), broken[:SHOWN_ROWS], broken_count)


def cores() -> int:
    """The processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _numbered(files: Sequence[str]) -> Iterator[tuple[int, Block]]:
    start = 0
    for block in itertools.chain.from_iterable(read_blocks(file) for file in files):
        yield start, block
        start += block.rows


def _in_workers(
    blocks: Iterator[tuple[int, Block]], observers: Sequence[Observer[Any]], workers: int
) -> Iterator[Observed]:
    """What `observe_block` returns for each block, in order, at most two blocks per worker in flight."""
    # Forked workers start in milliseconds and do not run the caller's script again; elsewhere forking is not safe.
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(observers,)) as pool:
        waiting: deque[Future[Observed]] = deque()
        for start, block in blocks:
            waiting.append(pool.submit(_observe_in_worker, start, block))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


_worker_observers: list[Observer[Any]] = []


def _start_worker(observers: Sequence[Observer[Any]]) -> None:
    gc.freeze()  # what the parent made is not looked through, and so not copied, at every collection
    _worker_observers[:] = observers


def _observe_in_worker(start: int, block: Block) -> Observed:
    return observe_block(_worker_observers, start, block)
