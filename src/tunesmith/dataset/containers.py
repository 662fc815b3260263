"""Files as a stream of JSON-like rows: JSONL, JSON array, CSV, TSV, Parquet, lines of text; plain, .gz or .zst; stdin.

Memory is bounded by the longest row (for Parquet, by the row group). A damaged place becomes a record with an error
and reading goes on behind it, so one bad row never hides another.
"""

import contextlib
import csv
import gzip
import io
import itertools
import json
import re
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from tunesmith.errors import DataError

CHUNK_CHARACTERS = 1 << 18
LONGEST_ELEMENT = 1 << 27
"""Characters of one element of a JSON array beyond which its end is no longer looked for."""

PEEKED_LINES = 8
"""Lines looked at to tell an array over many lines from rows of which the first is broken."""

DEEPEST = 200
"""Levels of nesting a row may have: code that walks values calls itself, and Python allows it about 1,000 calls."""

COMPRESSIONS = (".gz", ".zst")

# Cells of a table that hold JSON rather than text, when they look like it.
_JSON_CELLS = frozenset(
    {"messages", "conversations", "prompt", "completion", "chosen", "rejected", "tools", "input", "history"}
    | {"preferred_output", "non_preferred_output"}
)
# A table cannot leave a cell out: an empty one is an empty text in these columns, and absent elsewhere.
_TEXT_CELLS = frozenset(
    {"prompt", "completion", "response", "question", "answer", "instruction", "input", "output", "text"}
    | {"chosen", "rejected"}
)
_NEXT_OBJECT = re.compile(r"\}\s*,?\s*(?=\{)")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Damage:
    """Why no value could be read, `offset` characters into the record's text."""

    offset: int
    found: str
    expected: str


_TOO_DEEP = Damage(0, "values nested too deeply", f"JSON of at most {DEEPEST} levels")


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a file: its value, where it begins (1-based), and its text where it has one."""

    line: int
    column: int
    text: str | None
    value: Any
    damage: Damage | None = None


def records(path: str | Path) -> Iterator[Record]:
    """Every record of the file (`-` is standard input), in order. Raises DataError when it cannot be opened at all."""
    name = str(path)
    if container(name) == ".parquet":
        yield from _parquet(Path(path))
        return
    with _open(path) as stream:
        match container(name):
            case ".csv":
                yield from _table(stream, ",")
            case ".tsv":
                yield from _table(stream, "\t")
            case ".txt":
                yield from _text_lines(stream)
            case _:
                yield from _json(stream)


def locate(text: str, path: tuple[str | int, ...]) -> int:
    """Where in the JSON `text` the value at `path` begins, as far as the path exists; an offset in characters."""
    position = _skip_space(text, 0)
    for key in path:
        found = next((at for name, at in reversed(list(_children(text, position))) if name == key), None)
        if found is None:
            break
        position = found
    return position


def _children(text: str, position: int) -> Iterator[tuple[str | int, int]]:
    """Key (or index) and offset of every value directly inside the object or array at `position`."""
    opened = text[position] if position < len(text) else ""
    if opened not in ("{", "["):
        return
    position = _skip_space(text, position + 1)
    index = 0
    while position < len(text) and text[position] not in "}]":
        key: str | int = index
        if opened == "{":
            key, position = _DECODER.raw_decode(text, position)
            position = _skip_space(text, _skip_space(text, position) + 1)
        yield key, position
        _, position = _DECODER.raw_decode(text, position)
        position = _skip_space(text, position)
        if position < len(text) and text[position] == ",":
            position = _skip_space(text, position + 1)
        index += 1


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def container(name: str) -> str:
    """The ending of a file name that says what the file holds, in lower case: `.csv` for `rows.CSV.gz`."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextlib.contextmanager
def _open(path: str | Path) -> Iterator[IO[bytes]]:
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    file = Path(path)
    try:
        raw = file.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}") from error
    with raw:
        match file.suffix.lower():
            case ".gz":
                yield cast(IO[bytes], gzip.GzipFile(fileobj=raw))
            case ".zst":
                import zstandard

                yield io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
            case _:
                yield raw


def _lines(stream: IO[bytes]) -> Iterator[bytes | Exception]:
    """Lines; an exception in place of the rest when the compressed stream breaks off."""
    while True:
        try:
            line = stream.readline()
        except Exception as error:  # noqa: BLE001  # each decompressor raises its own
            yield error
            return
        if not line:
            return
        yield line


def _broken_stream(line: int, error: Exception) -> Record:
    return Record(line, 1, None, None, Damage(0, f"a damaged file ({error})", "a whole file; fetch it again"))


def _json(stream: IO[bytes]) -> Iterator[Record]:
    lines = _lines(stream)
    number = 0
    for number, line in enumerate(lines, 1):
        if isinstance(line, Exception):
            yield _broken_stream(number, line)
            return
        if number == 1:
            if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                yield Record(1, 1, None, None, Damage(0, "UTF-16 text", "UTF-8; save the file as UTF-8"))
                return
            line = line.removeprefix(b"\xef\xbb\xbf")
        stripped = line.strip()
        if not stripped:
            continue
        if stripped.startswith(b"[") or stripped == b"{":  # an array, or one pretty-printed object after another
            following, lines = _peek(lines)
            if _spans_lines(stripped, following):
                yield from _values(line, lines, number)
                return
        yield from _line(stripped, line, number)
        break
    for next_number, line in enumerate(lines, number + 1):
        if isinstance(line, Exception):
            yield _broken_stream(next_number, line)
            return
        if stripped := line.strip():
            yield from _line(stripped, line, next_number)


def _peek(lines: Iterator[bytes | Exception]) -> tuple[list[bytes], Iterator[bytes | Exception]]:
    """The next `PEEKED_LINES` lines that are not blank, and all lines again."""
    seen: list[bytes | Exception] = []
    full: list[bytes] = []
    for line in lines:
        seen.append(line)
        if isinstance(line, Exception):
            break
        if line.strip():
            full.append(line)
        if len(full) == PEEKED_LINES:
            break
    return full, itertools.chain(seen, lines)


def _spans_lines(first: bytes, following: list[bytes]) -> bool:
    """Whether the line `first` begins a value of many lines, rather than being a broken row of a file of one a line.

    Whole objects that are neither indented nor followed by a comma show such a file; an array may end in one.
    """
    if not following:
        return True
    rows = sum(line.startswith(b"{") and _is_json(line) for line in following)
    if first == b"[" or first.endswith(b","):
        return rows < 2
    return rows == 0 and not _is_json(first)


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _line(stripped: bytes, line: bytes, number: int) -> Iterator[Record]:
    column = 1 + len(line) - len(line.lstrip())
    try:
        text = stripped.decode()
    except UnicodeDecodeError as error:
        offset = len(stripped[: error.start].decode(errors="replace"))
        byte = stripped[error.start]
        yield Record(number, column, None, None, Damage(offset, f"byte 0x{byte:02x}", "UTF-8 text"))
        return
    yield _decode(text, number, column)


def _decode(text: str, line: int, column: int) -> Record:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Record(line, column, text, None, _why_not_json(text))
    if is_deep(text, value):
        return Record(line, column, text, None, _TOO_DEEP)
    return Record(line, column, text, value)


def is_deep(text: str, value: Any) -> bool:
    """Whether the JSON `text`, which says `value`, is nested beyond `DEEPEST`."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return False
    level = [value]
    for _ in range(DEEPEST):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    return any(isinstance(item, dict | list) for item in level)


def _why_not_json(text: str) -> Damage:
    """Python's parser words the reason and knows the place; it is lenient where msgspec is strict."""
    try:
        _DECODER.decode(text)
    except json.JSONDecodeError as error:
        if text[error.pos : error.pos + 1] and not error.msg.startswith("Unterminated"):
            return Damage(error.pos, f"{text[error.pos : error.pos + 12]!r}", f"JSON ({error.msg})")
        return Damage(min(error.pos, len(text)), "a line that breaks off", f"JSON ({error.msg})")
    except RecursionError:
        return _TOO_DEEP
    constant = re.search(r"\b(NaN|-?Infinity)\b", text)
    if constant:
        return Damage(constant.start(), constant.group(), "a JSON value (JSON has no such number)")
    return Damage(0, "text that is not strict JSON", "JSON")


def _values(first: bytes, rest: Iterator[bytes | Exception], line: int) -> Iterator[Record]:
    """The elements of a JSON array, or JSON objects one after another, from lines of any layout."""
    buffer = first.decode(errors="surrogateescape")
    position = _skip_space(buffer, 0)
    column = 1  # of buffer[0]
    in_array = buffer[position : position + 1] == "["
    position += in_array
    wanted, ended = CHUNK_CHARACTERS, False
    failure: Exception | None = None

    def where(offset: int) -> tuple[int, int]:
        breaks = buffer.count("\n", 0, offset)
        return line + breaks, offset - buffer.rfind("\n", 0, offset) if breaks else column + offset

    while True:
        position = _skip_space(buffer, position)
        if buffer[position : position + 1] == ",":
            position += 1
            continue
        if buffer[position : position + 1] == "]" and in_array:
            trailing = buffer[position + 1 :].strip()
            if trailing or any(not isinstance(more, Exception) and more.strip() for more in rest):
                yield Record(*where(position + 1), None, None, Damage(0, "text after the array", "the end of the file"))
            return
        end = None
        error: json.JSONDecodeError | None = None
        if position < len(buffer):
            try:
                _, end = _DECODER.raw_decode(buffer, position)
            except json.JSONDecodeError as caught:
                error = caught
            except RecursionError:
                error = json.JSONDecodeError("values nested too deeply", buffer, position)
        # A value may go on in text not read yet, and a number that ends the buffer may too.
        incomplete = end == len(buffer) or (
            end is None
            and (error is None or len(buffer) - error.pos < CHUNK_CHARACTERS or error.msg.startswith("Unterminated"))
        )
        if incomplete and not ended and len(buffer) - position < LONGEST_ELEMENT:
            line, column = where(position)
            parts, size = [buffer[position:]], 0
            for more in rest:
                if isinstance(more, Exception):
                    failure = more
                    break
                parts.append(more.decode(errors="surrogateescape"))
                size += len(parts[-1])
                if size >= wanted:
                    break
            else:
                ended = True
            ended = ended or failure is not None
            buffer, position = "".join(parts), 0
            wanted *= 2
            continue
        wanted = CHUNK_CHARACTERS
        if position >= len(buffer):
            if failure is not None:
                yield _broken_stream(where(position)[0], failure)
            elif in_array:
                yield Record(*where(position), None, None, Damage(0, "the end of the file", "`]`, the array's end"))
            return
        if end is not None:
            yield _element(buffer[position:end], *where(position))
            position = end
            continue
        assert error is not None  # noqa: S101  # neither a value nor the end
        yield Record(
            *where(position),
            None,
            None,
            Damage(error.pos - position, f"{buffer[error.pos :][:12]!r}", f"JSON ({error.msg})"),
        )
        following = _NEXT_OBJECT.search(buffer, max(error.pos - 1, position))
        if following is None:
            return
        position = following.end()


def _element(text: str, line: int, column: int) -> Record:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return Record(line, column, None, None, Damage(error.start, "a byte that is not UTF-8", "UTF-8 text"))
    return _decode(text, line, column)


class _TableLines:
    """A table's lines as text, numbered from 1; those of a row that turns out broken can be read again."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._lines = _lines(stream)
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
            line = (read.removeprefix(b"\xef\xbb\xbf") if self.number == 0 else read).decode(errors="surrogateescape")
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


def _table(stream: IO[bytes], delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)
    lines = _TableLines(stream)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        line = lines.number + 1
        lines.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            lines.back_to_second_line()
            yield Record(line, 1, None, None, Damage(0, f"a broken row ({error})", "cells quoted as CSV quotes them"))
            continue
        if not cells:
            continue
        if header is None:  # a name that is not UTF-8 is told as well as it can be
            header = [cell.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for cell in cells]
            continue
        yield _table_row(header, cells, line)
    if lines.failure is not None:
        yield _broken_stream(lines.number + 1, lines.failure)


def _table_row(header: list[str], cells: list[str], line: int) -> Record:
    if len(cells) != len(header):
        return Record(line, 1, None, None, Damage(0, f"{len(cells)} cells", f"{len(header)}, as the header has"))
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return Record(line, 1, None, None, Damage(0, "a byte that is not UTF-8", "UTF-8 text"))
    row = {key: _cell(key, cell) for key, cell in zip(header, cells, strict=True) if cell}
    if row.get("label") in ("true", "false", "True", "False"):  # text is all that a table has
        row["label"] = row["label"].lower() == "true"
    if "messages" not in row and "conversations" not in row:
        row = {key: "" for key in header if key in _TEXT_CELLS} | row
    return Record(line, 1, None, row)


def _cell(key: str, cell: str) -> Any:
    """A cell's value: JSON where the column holds structure and the cell looks like it, else the text."""
    if key in _JSON_CELLS and cell.lstrip()[:1] in ("[", "{"):
        try:
            value = msgspec.json.decode(cell)
        except (msgspec.DecodeError, RecursionError):
            return cell
        if is_deep(cell, value):
            return cell
        if isinstance(value, dict) or (
            isinstance(value, list) and all(isinstance(item, dict | list) for item in value)
        ):
            return value
    return cell


def _text_lines(stream: IO[bytes]) -> Iterator[Record]:
    for number, line in enumerate(_lines(stream), 1):
        if isinstance(line, Exception):
            yield _broken_stream(number, line)
            return
        try:
            text = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            damage = Damage(
                len(line[: error.start].decode(errors="replace")), f"byte 0x{line[error.start]:02x}", "UTF-8 text"
            )
            yield Record(number, 1, None, None, damage)
            continue
        if text.strip():
            yield Record(number, 1, None, {"text": text})


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except OSError as error:
        if error.errno is not None:
            raise DataError(f"{path}: cannot read: {error.strerror}") from error
        yield _broken_stream(1, error)
        return
    except pa.ArrowException as error:
        yield _broken_stream(1, error)
        return
    number = 0
    try:
        for batch in file.iter_batches(batch_size=1024):
            for value in _batch_rows(batch):
                number += 1
                if isinstance(value, Exception):
                    yield Record(number, 1, None, None, Damage(0, f"a damaged row ({value})", "a whole one"))
                else:
                    row = {key: _cell(key, cell) if isinstance(cell, str) else cell for key, cell in value.items()}
                    yield Record(number, 1, None, without_nulls(row))
    except (OSError, pa.ArrowException) as error:
        yield _broken_stream(number + 1, error)


def _batch_rows(batch: Any) -> Iterator[dict[str, Any] | Exception]:
    """The rows of an Arrow batch; an exception in place of each that has no Python value (text that is not UTF-8)."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if batch.num_rows > 1:
            for row in range(batch.num_rows):
                yield from _batch_rows(batch.slice(row, 1))
        else:
            yield error


def without_nulls(value: Any) -> Any:
    """Parquet gives every struct all its fields; the absent ones are null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
