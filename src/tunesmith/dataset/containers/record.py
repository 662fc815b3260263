"""One row of a file as a container gives it: a JSON-like value and its place, or the damage found there."""

from typing import Any

from msgspec import Struct

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Damage(Struct, frozen=True):
    """Why no value could be read, `offset` characters into the record's text."""

    offset: int
    found: str
    expected: str


class Record(Struct, frozen=True, gc=False):
    """One row of a file: its value, where it begins (1-based), and its text where it has one."""

    line: int
    column: int
    text: str | None
    value: Any
    damage: Damage | None = None


class Lines(Struct, frozen=True):
    """Some lines of JSON as they stand in the file, which another process can read: the first one's number (1-based),
    the bytes, and how many lines are not blank, each of which is a row.
    """

    line: int
    text: bytes
    rows: int


def broken_stream(line: int, error: Exception) -> Record:
    """The record in place of all that follows where a compressed or binary file breaks off."""
    return Record(line, 1, None, None, Damage(0, f"a damaged file ({error})", "a whole file; fetch it again"))


def not_utf8(line: int, column: int, text: bytes, error: UnicodeDecodeError) -> Record:
    """The record in place of `text`, which begins at `column` and is not UTF-8."""
    offset = len(text[: error.start].decode(errors="replace"))
    return Record(line, column, None, None, Damage(offset, f"byte 0x{text[error.start]:02x}", "UTF-8 text"))
