"""Conversations as data files: the format chooses the row's shape, the file's ending the container.

JSONL (the default), JSON array and text are streamed; tables and Parquet are built in memory. The file appears whole
or not at all.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path

from tunesmith.dataset.containers import write_rows
from tunesmith.dataset.containers.compression import content_ending
from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.formats import find_format, write_row
from tunesmith.errors import SpecError
from tunesmith.storage import atomic_file


def write(path: str | Path, rows: Iterable[Conversation], *, format: str | None = None) -> int:  # noqa: A002
    """Write `rows` to `path` in `format`, or each in the format it was read from, and return how many there were.

    What the format cannot carry is left out; `convert` is the careful way. Raises SpecError for an unknown format,
    StorageError when the disk refuses.
    """
    if format is not None:
        find_format(format)
    target = Path(path)
    if content_ending(target.name) == ".txt" and format not in (None, "text"):
        raise SpecError(f"{path}: a .txt file holds plain text only; end its name in .jsonl")
    counter = itertools.count()
    objects = (write_row(row, format or _own_format(row)) for row, _ in zip(rows, counter, strict=False))
    with atomic_file(target) as temporary:
        write_rows(temporary, target.name, objects)
    return next(counter)


def _own_format(row: Conversation) -> str:
    return "openai" if row.source is None else row.source.format
