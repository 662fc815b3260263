"""CSV and TSV: a header, then a row of cells a row. A table holds text, so numbers elsewhere come back as text."""

import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator
from typing import IO, Any, cast

from tunesmith.dataset.containers import cells
from tunesmith.dataset.containers.compression import lines
from tunesmith.dataset.containers.record import BYTE_ORDER_MARK, Damage, Record, broken_stream

# A table cannot leave a cell out: an empty one is an empty text in these columns, and absent elsewhere.
_TEXT_CELLS = frozenset(
    {"prompt", "completion", "response", "question", "answer", "instruction", "input", "output", "text"}
    | {"chosen", "rejected"}
)


def read(stream: IO[bytes], delimiter: str) -> Iterator[Record]:
    """The rows below the header."""
    csv.field_size_limit(2**31 - 1)
    source = _Lines(stream)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        line = source.number + 1
        source.begin_row()
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            source.back_to_second_line()
            yield Record(line, 1, None, None, Damage(0, f"a broken row ({error})", "cells quoted as CSV quotes them"))
            continue
        if not row:
            continue
        if header is None:  # a name that is not UTF-8 is told as well as it can be
            header = [cell.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for cell in row]
            continue
        yield _record(header, row, line)
    if source.failure is not None:
        yield broken_stream(source.number + 1, source.failure)


def write(stream: IO[bytes], rows: Iterable[dict[str, Any]], delimiter: str) -> None:
    """Columns are those of all rows together, so the rows are collected before they are written."""
    collected = list(rows)
    columns = list(dict.fromkeys(key for row in collected for key in row))
    text = io.TextIOWrapper(cast(Any, stream), encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(columns)
    writer.writerows([cells.text_of(column, row.get(column)) for column in columns] for row in collected)
    text.detach()


class _Lines:
    """A table's lines as text, numbered from 1; those of a row that turns out broken can be read again."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._lines = lines(stream)
        self._again: deque[str] = deque()
        self._row: list[str] = []
        self.number = 0
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._again:
            line = self._again.popleft()
        else:
            read = next(self._lines)
            if isinstance(read, Exception):
                self.failure = read
                raise StopIteration
            line = (read.removeprefix(BYTE_ORDER_MARK) if self.number == 0 else read).decode(errors="surrogateescape")
        self.number += 1
        self._row.append(line)
        return line

    def begin_row(self) -> None:
        """What is read from here on is one row."""
        self._row.clear()

    def back_to_second_line(self) -> None:
        """Give the row's lines but the first again: a quote that is never closed must not swallow the rows below."""
        self._again.extendleft(reversed(self._row[1:]))
        self.number -= max(len(self._row) - 1, 0)


def _record(header: list[str], row: list[str], line: int) -> Record:
    if len(row) != len(header):
        return Record(line, 1, None, None, Damage(0, f"{len(row)} cells", f"{len(header)}, as the header has"))
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return Record(line, 1, None, None, Damage(0, "a byte that is not UTF-8", "UTF-8 text"))
    value = {column: cells.value_of(column, cell, header) for column, cell in zip(header, row, strict=True) if cell}
    if "messages" not in value and "conversations" not in value:
        value = {column: "" for column in header if column in _TEXT_CELLS} | value
    return Record(line, 1, None, value)
