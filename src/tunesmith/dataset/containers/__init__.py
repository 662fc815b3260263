"""Files as a stream of JSON-like rows, one module a container: how to read it and how to write it.

Memory is bounded by the longest row (for Parquet, by the row group). A damaged place becomes a record with an error
and reading goes on behind it, so one bad row never hides another.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tunesmith.dataset.containers import json_array, json_lines, parquet, table, text_lines
from tunesmith.dataset.containers.compression import content_ending, open_to_read, open_to_write
from tunesmith.dataset.containers.record import Lines, Record


def read_container(path: str | Path) -> Iterator[Lines | Record]:
    """The rows of the file (`-` is standard input) in order, as far as reading one file in one pass must decode them.

    Raises DataError when it cannot be opened at all.
    """
    ending = content_ending(str(path))
    if ending == ".parquet":
        yield from parquet.read(Path(path))
        return
    with open_to_read(path) as stream:
        match ending:
            case ".csv":
                yield from table.read(stream, ",")
            case ".tsv":
                yield from table.read(stream, "\t")
            case ".txt":
                yield from text_lines.read(stream)
            case _:
                yield from json_lines.read(stream)


def write_rows(path: Path, name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write `rows` to `path` as the endings of `name` say."""
    ending = content_ending(name)
    if ending == ".parquet":
        parquet.write(path, rows)
        return
    with open_to_write(path, Path(name).suffix.lower()) as stream:
        match ending:
            case ".csv":
                table.write(stream, rows, ",")
            case ".tsv":
                table.write(stream, rows, "\t")
            case ".txt":
                text_lines.write(stream, rows)
            case ".json":
                json_array.write(stream, rows)
            case _:
                json_lines.write(stream, rows)
