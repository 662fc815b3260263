"""Data files as conversations: any format, any container, every broken row reported with its place.

Each line is decoded once by msgspec and read by the parser of the format its keys show; plain chat rows, which most
are, come straight from the decoder. Only a row with a mistake pays for finding the line and column of the field, by
walking its text again.
"""

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from tunesmith.dataset.containers import json_lines, read_container
from tunesmith.dataset.containers.json_lines import ROWS_TOGETHER
from tunesmith.dataset.containers.json_text import locate
from tunesmith.dataset.containers.record import Lines, Record
from tunesmith.dataset.conversation import BrokenRow, Conversation, Source
from tunesmith.dataset.formats import FORMATS, detect, find_format, openai
from tunesmith.dataset.formats.fields import Problem, Problems, describe, dotted
from tunesmith.errors import DataError

EXPECTED_ROW = (
    "`messages`, `conversations`, `instruction`/`output`, `prompt`/`completion`, `prompt`/`chosen`/`rejected` or `text`"
)


class Block(Struct, frozen=True):
    """Some rows of a file that follow each other, decoded as little as reading the file needs.

    `number` is the first row's in the file, from 1, and `rows` how many there are, readable or not.
    """

    file: str
    number: int
    rows: int
    content: Lines | list[Record]


def read(path: str | Path, *, format: str | None = None) -> Iterator[Conversation | BrokenRow]:  # noqa: A002
    """Stream the rows of a data file (`-` is standard input); a row with several mistakes gives several BrokenRows.

    The format is detected row by row unless `format` names it. Raises DataError when the file cannot be opened,
    SpecError for an unknown format.
    """
    if format is not None:
        find_format(format)
    for block in read_blocks(path):
        yield from rows_of(block, format)


def read_blocks(path: str | Path) -> Iterator[Block]:
    """The rows of a data file as blocks, which `rows_of` reads, here or in another process. Raises DataError."""
    name = "stdin" if str(path) == "-" else str(path)
    number = 1
    records: list[Record] = []
    for part in read_container(path):
        if isinstance(part, Record):
            records.append(part)
            if len(records) < ROWS_TOGETHER:
                continue
        if records:
            yield Block(name, number, len(records), records)
            number += len(records)
            records = []
        if isinstance(part, Lines):
            yield Block(name, number, part.rows, part)
            number += part.rows
    if records:
        yield Block(name, number, len(records), records)


def rows_of(block: Block, row_format: str | None = None) -> Iterator[Conversation | BrokenRow]:
    """The rows of a block as `read` gives them."""
    name = block.file
    if not isinstance(block.content, Lines):
        for number, record in enumerate(block.content, block.number):
            yield from _rows(record, name, number, row_format)
        return
    may_be_chat = row_format in (None, "openai")
    for number, (place, line) in enumerate(json_lines.lines_of(block.content), block.number):
        messages = openai.read_plain(line) if may_be_chat else None
        if messages is None:
            yield from _rows(json_lines.record_of(line, place), name, number, row_format)
        else:
            yield Conversation(messages, source=Source(name, place, "openai"))


def load(path: str | Path, *, format: str | None = None) -> list[Conversation]:  # noqa: A002
    """All rows of a data file. Raises DataError when it has none, or a broken one (naming the first and how many)."""
    rows: list[Conversation] = []
    broken: list[BrokenRow] = []
    for row in read(path, format=format):
        if isinstance(row, BrokenRow):
            broken.append(row)
        else:
            rows.append(row)
    if broken:
        count = "1 broken row" if len(broken) == 1 else f"{len(broken):,} mistakes"
        raise DataError(
            f"{broken[0]}\n({count}; list them with `tunesmith data check {path}`, "
            f"drop them with `tunesmith data clean {path} OUT --drop-broken`)"
        )
    if not rows:
        raise DataError(f"{path}: no rows; expected at least one row with {EXPECTED_ROW}")
    return rows


def _rows(record: Record, name: str, number: int, forced: str | None) -> Iterator[Conversation | BrokenRow]:
    """The row in a record, or its mistakes."""
    if record.damage is not None:
        column = record.column + record.damage.offset
        yield BrokenRow(name, record.line, column, "$", record.damage.found, record.damage.expected, number)
        return
    problems: Problems = []
    row = _read_row(record, name, forced, problems)
    if row is not None and not problems:
        yield row
    for problem in problems:
        yield _broken(record, name, problem, number)


def _read_row(record: Record, name: str, forced: str | None, problems: Problems) -> Conversation | None:
    if not isinstance(record.value, dict):
        problems.append(Problem((), describe(record.value), "an object"))
        return None
    row_format = forced or detect(record.value)
    if row_format is None:
        keys = ", ".join(f"`{key}`" for key in list(record.value)[:5])
        problems.append(Problem((), f"the keys {keys}" if keys else "an empty object", EXPECTED_ROW))
        return None
    row = FORMATS[row_format].read(record.value, problems)
    # Struct.__replace__ would build the row again; the parsers leave `source` to the one place that knows it.
    return Conversation(
        row.messages,
        row.completion_start,
        row.rejected,
        row.text,
        row.desirable,
        row.tools,
        row.label,
        row.metadata,
        Source(name, record.line, row_format),
    )


def _broken(record: Record, name: str, problem: Problem, number: int) -> BrokenRow:
    line, column = record.line, record.column
    if record.text is not None:
        offset = locate(record.text, problem.path)
        breaks = record.text.count("\n", 0, offset)
        line += breaks
        column = offset - record.text.rfind("\n", 0, offset) if breaks else column + offset
    return BrokenRow(name, line, column, dotted(problem.path), problem.found, problem.expected, number)
