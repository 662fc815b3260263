"""One JSON text: its value, or why it has none, and where in the text a value stands.

Decoding is msgspec's; only a text with a mistake is parsed again, by Python's parser, which words the reason and knows
the place.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from tunesmith.dataset.containers.record import Damage, Record

DEEPEST = 200
"""Levels of nesting a row may have: code that walks values calls itself, and Python allows it about 1,000 calls."""

DECODER = json.JSONDecoder()

_TOO_DEEP = Damage(0, "values nested too deeply", f"JSON of at most {DEEPEST} levels")


def decode(text: str, line: int, column: int) -> Record:
    """The record that `text`, which begins at `line` and `column`, says."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Record(line, column, text, None, _why_not_json(text))
    if is_deep(text, value):
        return Record(line, column, text, None, _TOO_DEEP)
    return Record(line, column, text, value)


def encode(value: Any) -> bytes:
    """`value` as JSON on one line; what JSON has no word for as its text."""
    return msgspec.json.encode(value, enc_hook=str)


def is_json(text: bytes) -> bool:
    """Whether `text` is one JSON value."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def is_deep(text: str, value: Any) -> bool:
    """Whether the JSON `text`, which says `value`, is nested beyond `DEEPEST`."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return False
    level = [value]
    for _ in range(DEEPEST):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    return any(isinstance(item, dict | list) for item in level)


def locate(text: str, path: tuple[str | int, ...]) -> int:
    """Where in the JSON `text` the value at `path` begins, as far as the path exists; an offset in characters."""
    position = skip_space(text, 0)
    for key in path:
        found = next((at for name, at in reversed(list(_children(text, position))) if name == key), None)
        if found is None:
            break
        position = found
    return position


def skip_space(text: str, position: int) -> int:
    """The offset of the first character at or after `position` that is not JSON's white space."""
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _children(text: str, position: int) -> Iterator[tuple[str | int, int]]:
    """Key (or index) and offset of every value directly inside the object or array at `position`."""
    opened = text[position] if position < len(text) else ""
    if opened not in ("{", "["):
        return
    position = skip_space(text, position + 1)
    index = 0
    while position < len(text) and text[position] not in "}]":
        key: str | int = index
        if opened == "{":
            key, position = DECODER.raw_decode(text, position)
            position = skip_space(text, skip_space(text, position) + 1)
        yield key, position
        _, position = DECODER.raw_decode(text, position)
        position = skip_space(text, position)
        if position < len(text) and text[position] == ",":
            position = skip_space(text, position + 1)
        index += 1


def _why_not_json(text: str) -> Damage:
    """Python's parser is lenient where msgspec is strict."""
    try:
        DECODER.decode(text)
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
