"""A JSON array over many lines, or JSON objects one after another: a value may begin and end anywhere.

The text is read in pieces that double until a value is whole, so memory is bounded by the longest value. Behind a
broken one reading goes on at the next object.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any

from tunesmith.dataset.containers.json_text import DECODER, decode, encode, skip_space
from tunesmith.dataset.containers.record import Damage, Record, broken_stream

CHUNK_CHARACTERS = 1 << 18
LONGEST_ELEMENT = 1 << 27
"""Characters of one value beyond which its end is no longer looked for."""

_NEXT_OBJECT = re.compile(r"\}\s*,?\s*(?=\{)")


def read(lines: Iterator[bytes | Exception]) -> Iterator[Record]:
    """The elements of the array, or the objects, that the lines of a whole file hold."""
    text = _Window(lines)
    in_array = text.take("[")
    while True:
        if text.take(","):
            continue
        if in_array and text.take("]"):
            if not text.at_end():
                yield text.damage("text after the array", "the end of the file")
            return
        if text.at_end():
            if text.failure is not None:
                yield broken_stream(text.place()[0], text.failure)
            elif in_array:
                yield text.damage("the end of the file", "`]`, the array's end")
            return
        end, error = _value(text.buffer, text.position)
        if text.may_go_on(end, error):
            text.read_on()
        elif error is None:
            yield _element(text.buffer[text.position : end], *text.place())
            text.move_to(end)
        else:
            found = f"{text.buffer[error.pos :][:12]!r}"
            yield text.damage(found, f"JSON ({error.msg})", error.pos - text.position)
            following = _NEXT_OBJECT.search(text.buffer, max(error.pos - 1, text.position))
            if following is None:
                return
            text.move_to(following.end())


def write(stream: IO[bytes], rows: Iterable[dict[str, Any]]) -> None:
    """The rows as one array, one a line."""
    stream.write(b"[")
    for index, row in enumerate(rows):
        stream.write((b",\n" if index else b"\n") + encode(row))
    stream.write(b"\n]\n")


class _Window:
    """The part of the text that is held in memory: what comes before `position` is done with."""

    def __init__(self, lines: Iterator[bytes | Exception]) -> None:
        self.buffer = ""
        self.position = 0
        self.failure: Exception | None = None
        self._lines = lines
        self._line, self._column = 1, 1  # of buffer[0]
        self._wanted, self._ended = CHUNK_CHARACTERS, False

    def take(self, character: str) -> bool:
        """Step over `character` if it comes next, white space aside; whether it did."""
        self._skip_space()
        found = self.buffer.startswith(character, self.position)
        self.position += found
        return found

    def at_end(self) -> bool:
        """Whether nothing but white space follows."""
        self._skip_space()
        return self.position == len(self.buffer)

    def move_to(self, position: int) -> None:
        """What comes before `position` is done with."""
        self.position = position
        self._wanted = CHUNK_CHARACTERS

    def may_go_on(self, end: int, error: json.JSONDecodeError | None) -> bool:
        """Whether the value at `position` may go on in text not read yet; a number that ends the buffer may, too."""
        if self._ended or len(self.buffer) - self.position >= LONGEST_ELEMENT:
            return False
        if error is None:
            return end == len(self.buffer)
        return len(self.buffer) - error.pos < CHUNK_CHARACTERS or error.msg.startswith("Unterminated")

    def read_on(self) -> None:
        """Drop what is done with and read more, twice as much as the last time."""
        self._line, self._column = self.place()
        parts, size = [self.buffer[self.position :]], 0
        while size < self._wanted and not self._ended:
            more = next(self._lines, None)
            if isinstance(more, bytes):
                parts.append(more.decode(errors="surrogateescape"))
                size += len(parts[-1])
            else:
                self.failure, self._ended = more, True
        self.buffer, self.position = "".join(parts), 0
        self._wanted *= 2

    def place(self) -> tuple[int, int]:
        """Line and column of `position`."""
        breaks = self.buffer.count("\n", 0, self.position)
        if not breaks:
            return self._line, self._column + self.position
        return self._line + breaks, self.position - self.buffer.rfind("\n", 0, self.position)

    def damage(self, found: str, expected: str, offset: int = 0) -> Record:
        """A record of damage at `position` or `offset` characters behind it."""
        return Record(*self.place(), None, None, Damage(offset, found, expected))

    def _skip_space(self) -> None:
        self.position = skip_space(self.buffer, self.position)
        while self.position == len(self.buffer) and not self._ended:
            self.read_on()
            self.position = skip_space(self.buffer, self.position)


def _value(buffer: str, position: int) -> tuple[int, json.JSONDecodeError | None]:
    """Where the value at `position` ends, or why there is none."""
    try:
        return DECODER.raw_decode(buffer, position)[1], None
    except json.JSONDecodeError as error:
        return position, error
    except RecursionError:
        return position, json.JSONDecodeError("values nested too deeply", buffer, position)


def _element(text: str, line: int, column: int) -> Record:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return Record(line, column, None, None, Damage(error.start, "a byte that is not UTF-8", "UTF-8 text"))
    return decode(text, line, column)
