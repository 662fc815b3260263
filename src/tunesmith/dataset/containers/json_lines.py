"""JSON values one a line, or what turns out to be an array or objects over many lines; the default container.

Lines are given as they stand, many at a time: who reads the file only finds where they end, and others decode them.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import IO, Any

from tunesmith.dataset.containers import json_array
from tunesmith.dataset.containers.compression import lines
from tunesmith.dataset.containers.json_text import decode, encode, is_json
from tunesmith.dataset.containers.record import BYTE_ORDER_MARK, Damage, Lines, Record, broken_stream, not_utf8

ROWS_TOGETHER, BYTES_TOGETHER = 500, 1 << 22
"""Lines given together: enough that handing them over costs little, and few enough that workers share evenly."""

PEEKED_LINES = 9
"""Lines looked at to tell an array over many lines from rows of which the first is broken."""


def read(stream: IO[bytes]) -> Iterator[Lines | Record]:
    """The lines of a JSONL file, or the values of a JSON file."""
    rest = lines(stream)
    first = next(rest, b"")
    if isinstance(first, bytes):
        if first.startswith((b"\xff\xfe", b"\xfe\xff")):
            yield Record(1, 1, None, None, Damage(0, "UTF-16 text", "UTF-8; save the file as UTF-8"))
            return
        first = first.removeprefix(BYTE_ORDER_MARK)
    ahead, rest = _peek(itertools.chain([first], rest))
    if _spans_lines(ahead):
        yield from json_array.read(rest)
    else:
        yield from _many_at_once(rest)


def _many_at_once(rest: Iterator[bytes | Exception]) -> Iterator[Lines | Record]:
    together: list[bytes] = []
    start, rows, size = 1, 0, 0
    for number, line in enumerate(rest, 1):
        if isinstance(line, Exception):
            yield Lines(start, b"".join(together), rows)
            yield broken_stream(number, line)
            return
        together.append(line)
        rows += not line.isspace()
        size += len(line)
        if rows >= ROWS_TOGETHER or size >= BYTES_TOGETHER:
            yield Lines(start, b"".join(together), rows)
            together, start, rows, size = [], number + 1, 0, 0
    yield Lines(start, b"".join(together), rows)


def lines_of(together: Lines) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, each behind its number in the file."""
    for number, line in enumerate(together.text.split(b"\n"), together.line):
        if line.strip():
            yield number, line


def record_of(line: bytes, number: int) -> Record:
    """The value of line `number`."""
    stripped = line.lstrip().rstrip(b"\r\n\v\f")  # spaces at the end stay: behind them a broken value would go on
    column = 1 + len(line) - len(line.lstrip())
    try:
        text = stripped.decode()
    except UnicodeDecodeError as error:
        return not_utf8(number, column, stripped, error)
    return decode(text, number, column)


def write(stream: IO[bytes], rows: Iterable[dict[str, Any]]) -> None:
    """One row a line."""
    for row in rows:  # zstandard's writer has no writelines
        stream.write(encode(row) + b"\n")


def _peek(rest: Iterator[bytes | Exception]) -> tuple[list[bytes], Iterator[bytes | Exception]]:
    """The next `PEEKED_LINES` lines that are not blank, and all lines again."""
    seen: list[bytes | Exception] = []
    full: list[bytes] = []
    for line in rest:
        seen.append(line)
        if isinstance(line, Exception):
            break
        if line.strip():
            full.append(line)
        if len(full) == PEEKED_LINES:
            break
    return full, itertools.chain(seen, rest)


def _spans_lines(ahead: list[bytes]) -> bool:
    """Whether the first of the lines begins a value of many lines, rather than a file of one value a line.

    Whole objects that are neither indented nor followed by a comma show such a file; an array may end in one.
    """
    first = ahead[0].strip() if ahead else b""
    if first != b"{" and not first.startswith(b"["):
        return False
    if len(ahead) == 1:
        return True
    rows = sum(line.startswith(b"{") and is_json(line) for line in ahead[1:])
    if first == b"[" or first.endswith(b","):
        return rows < 2
    return rows == 0 and not is_json(first)
