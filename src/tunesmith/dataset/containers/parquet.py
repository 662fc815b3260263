"""Parquet: rows with typed columns, read in batches, built in memory to be written."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tunesmith.dataset.containers import cells
from tunesmith.dataset.containers.record import Damage, Record, broken_stream
from tunesmith.errors import DataError


def read(path: Path) -> Iterator[Record]:
    """The rows of the file, numbered from 1. Raises DataError when it cannot be opened."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except OSError as error:
        if error.errno is not None:
            raise DataError(f"{path}: cannot read: {error.strerror}") from error
        yield broken_stream(1, error)
        return
    except (pa.ArrowException, UnicodeError) as error:  # names of columns may be any bytes
        yield broken_stream(1, error)
        return
    number = 0
    try:
        for batch in file.iter_batches(batch_size=1024):
            for value in _values(batch):
                number += 1
                if isinstance(value, Exception):
                    yield Record(number, 1, None, None, Damage(0, f"a damaged row ({value})", "a whole one"))
                else:
                    yield Record(number, 1, None, _row(value))
    except (OSError, pa.ArrowException, UnicodeError) as error:
        yield broken_stream(number + 1, error)


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Columns are those of all rows together."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    collected = list(rows)
    names = dict.fromkeys(key for row in collected for key in row)
    pq.write_table(pa.table({name: _column(name, [row.get(name) for row in collected]) for name in names}), path)


def _values(batch: Any) -> Iterator[dict[str, Any] | Exception]:
    """The rows of an Arrow batch; an exception in place of each that has no Python value (text that is not UTF-8)."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if batch.num_rows > 1:
            for row in range(batch.num_rows):
                yield from _values(batch.slice(row, 1))
        else:
            yield error


def _row(values: dict[str, Any]) -> Any:
    return _without_nulls(
        {
            column: cells.value_of(column, value, values) if isinstance(value, str) else value
            for column, value in values.items()
        }
    )


def _column(name: str, values: list[Any]) -> Any:
    """An Arrow column; JSON text where the values have no common type, as tool schemas of different rows."""
    import pyarrow as pa

    values = [cells.text_of(name, value) if isinstance(value, str) else value for value in values]
    if name != "tools":
        with contextlib.suppress(pa.ArrowException, OverflowError, TypeError, ValueError):
            column = pa.array(values)
            kept = [_without_nulls(value) for value in column.to_pylist()] == [
                _without_nulls(value) for value in values
            ]
            if kept and not _has_empty_struct(column.type):
                return column
    return pa.array([None if value is None else cells.text_of(name, value) for value in values], pa.string())


def _has_empty_struct(kind: Any) -> bool:
    """Whether there is a struct without fields, which Parquet cannot hold, in an Arrow type."""
    fields = [kind.field(index).type for index in range(kind.num_fields)]
    return (str(kind) == "struct<>") or any(map(_has_empty_struct, fields))


def _without_nulls(value: Any) -> Any:
    """Parquet gives every struct all its fields; the absent ones are null."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
