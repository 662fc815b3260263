"""Lines of plain text: every line that is not blank is a row with the one field `text`."""

from collections.abc import Iterable, Iterator
from typing import IO, Any

from tunesmith.dataset.containers.compression import lines
from tunesmith.dataset.containers.record import BYTE_ORDER_MARK, Record, broken_stream, not_utf8


def read(stream: IO[bytes]) -> Iterator[Record]:
    """The lines."""
    for number, line in enumerate(lines(stream), 1):
        if isinstance(line, Exception):
            yield broken_stream(number, line)
            return
        try:
            text = (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).decode()
        except UnicodeDecodeError as error:
            yield not_utf8(number, 1, line, error)
            continue
        if text.strip():
            yield Record(number, 1, None, {"text": text.removesuffix("\n").removesuffix("\r")})


def cannot_carry(row: dict[str, Any]) -> list[str]:
    """What of `row` would be lost, in words."""
    lost = []
    if "\n" in row["text"] or row["text"].endswith("\r"):
        lost.append("line breaks within a text")
    if not row["text"].strip():
        lost.append("an empty text")
    if row["text"].startswith("\ufeff"):
        lost.append("a byte-order mark")
    if len(row) > 1:
        lost.append("other columns")
    return lost


def write(stream: IO[bytes], rows: Iterable[dict[str, Any]]) -> None:
    """The rows' texts, one a line."""
    for row in rows:
        stream.write(row["text"].replace("\n", " ").encode() + b"\n")
