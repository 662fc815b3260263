"""What a cell of a table holds: text, or JSON where the column holds structure and the text has its shape.

Text is what most cells hold, JSON among it (an extraction set's completions), so only what has the shape of messages,
tool schemas or history is read as structure. Text of that shape is written as a message that says it.
"""

from collections.abc import Collection
from typing import Any

import msgspec

from tunesmith.dataset.containers.json_text import encode, is_deep

_SPEAKERS = {"prompt": "user", "completion": "assistant", "chosen": "assistant", "rejected": "assistant"}
"""Columns of text or messages, and who says the text."""

_STRUCTURES = frozenset({"messages", "conversations", "tools", "history", "preferred_output", "non_preferred_output"})


def value_of(column: str, cell: str, columns: Collection[str]) -> Any:
    """The value that the text in `cell` says, in a table that has `columns`."""
    if column == "label" and "completion" in columns and cell.lower() in ("true", "false"):
        return cell.lower() == "true"  # beside a completion, whether it is a good one
    structured = column in _STRUCTURES or (column == "input" and "preferred_output" in columns)
    if not (structured or column in _SPEAKERS) or cell.lstrip()[:1] not in ("[", "{"):
        return cell
    try:
        value = msgspec.json.decode(cell)
    except (msgspec.DecodeError, RecursionError):
        return cell
    if is_deep(cell, value) or not (structured or _are_messages(column, value)):
        return cell
    return value


def text_of(column: str, value: Any) -> str:
    """The text for `value` in a cell."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return encode(value).decode()
    if column in _SPEAKERS and value_of(column, value, ()) != value:
        return encode([{"role": _SPEAKERS[column], "content": value}]).decode()
    return value


def _are_messages(column: str, value: Any) -> bool:
    if value == []:  # no reply is empty, but a prompt may be
        return column == "prompt"
    return isinstance(value, list) and all(isinstance(message, dict) and "role" in message for message in value)
