"""Conversations as data files: the format chooses the row's shape, the file's ending the container.

JSONL (the default), JSON array, CSV, TSV and text are streamed; Parquet is built in memory. The file appears whole or
not at all.
"""

import contextlib
import csv
import gzip
import io
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from tunesmith.dataset.containers import container, without_nulls
from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.formats import FORMATS, find_format
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
    kind = container(target.name)
    if kind == ".txt" and format not in (None, "text"):
        raise SpecError(f"{path}: a .txt file holds plain text only; end its name in .jsonl")
    counter = itertools.count()
    objects = (FORMATS[format or _own_format(row)].write(row) for row, _ in zip(rows, counter, strict=False))
    with atomic_file(target) as temporary:
        if kind == ".parquet":
            _write_parquet(temporary, list(objects))
        else:
            with _open(temporary, target.suffix.lower()) as stream:
                match kind:
                    case ".csv":
                        _write_table(stream, objects, ",")
                    case ".tsv":
                        _write_table(stream, objects, "\t")
                    case ".json":
                        _write_array(stream, objects)
                    case ".txt":
                        _write_lines(stream, (row["text"].encode() for row in objects))
                    case _:
                        _write_lines(stream, map(_json, objects))
    return next(counter)


def _own_format(row: Conversation) -> str:
    return "openai" if row.source is None else row.source.format


@contextlib.contextmanager
def _open(path: Path, compression: str) -> Iterator[IO[bytes]]:
    with path.open("wb") as raw:
        match compression:
            case ".gz":
                # No time stamp and no name inside: the same rows give the same bytes.
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as stream:
                    yield cast(IO[bytes], stream)
            case ".zst":
                import zstandard

                with zstandard.ZstdCompressor().stream_writer(raw, closefd=False) as writer:
                    yield cast(IO[bytes], writer)
            case _:
                yield raw


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=str)


def _write_lines(stream: IO[bytes], lines: Iterable[bytes]) -> None:
    for line in lines:  # zstandard's writer has no writelines
        stream.write(line + b"\n")


def _write_array(stream: IO[bytes], objects: Iterable[dict[str, Any]]) -> None:
    stream.write(b"[")
    for index, row in enumerate(objects):
        stream.write((b",\n" if index else b"\n") + _json(row))
    stream.write(b"\n]\n")


def _write_table(stream: IO[bytes], objects: Iterable[dict[str, Any]], delimiter: str) -> None:
    """Columns are those of all rows together, so a table is collected before it is written."""
    rows = list(objects)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.TextIOWrapper(cast(Any, stream), encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    text.detach()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _json(value).decode()


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = dict.fromkeys(key for row in rows for key in row)
    pq.write_table(pa.table({name: _column(name, [row.get(name) for row in rows]) for name in names}), path)


def _column(name: str, values: list[Any]) -> Any:
    """An Arrow column; JSON text where the values have no common type, as tool schemas of different rows."""
    import pyarrow as pa

    if name != "tools":
        with contextlib.suppress(pa.ArrowException, OverflowError, TypeError, ValueError):
            column = pa.array(values)
            if [without_nulls(value) for value in column.to_pylist()] == [without_nulls(value) for value in values]:
                return column
    return pa.array([None if value is None else _cell(value) for value in values], pa.string())
