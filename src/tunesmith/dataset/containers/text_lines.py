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
            text = (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield not_utf8(number, 1, line, error)
            continue
        if text.strip():
            yield Record(number, 1, None, {"text": text})


def write(stream: IO[bytes], rows: Iterable[dict[str, Any]]) -> None:
    """The rows' texts, one a line."""
    for row in rows:
        stream.write(row["text"].encode() + b"\n")
