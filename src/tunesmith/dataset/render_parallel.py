"""Rendering on all cores: the same rows in the same order as one process gives, a data set's worth at a time.

Writing out a chat template is Python, so it takes processes. Forked ones start in milliseconds and see rows and
tokenizer without a copy; where forking is not safe one process renders it all.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.render import BATCH_ROWS, Rendered, Renderer
from tunesmith.settings import load_settings

PARALLEL_FROM = 4 * BATCH_ROWS
"""Rows below which starting processes costs more than they save."""


def render_rows(renderer: Renderer, rows: Sequence[Conversation], *, max_length: int) -> Iterator[Rendered]:
    """The rows' tokens and loss masks, in order. Raises DataError for the first row that the template refuses."""
    workers = min(load_settings().threads, len(rows) // BATCH_ROWS)
    if workers < 2 or len(rows) < PARALLEL_FROM or sys.platform != "linux":
        yield from renderer.render_many(rows, max_length=max_length)
        return
    starts = range(0, len(rows), BATCH_ROWS)
    with ProcessPoolExecutor(workers, get_context("fork"), _share, (renderer, rows, max_length)) as pool:
        for batch in pool.map(_render, starts):
            yield from batch


_shared: list[tuple[Renderer, Sequence[Conversation], int]] = []


def _share(renderer: Renderer, rows: Sequence[Conversation], max_length: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread in each process: there is one for each core
    _shared[:] = [(renderer, rows, max_length)]


def _render(start: int) -> list[Rendered]:
    renderer, rows, max_length = _shared[0]
    return list(renderer.render_many(rows[start : start + BATCH_ROWS], max_length=max_length))
