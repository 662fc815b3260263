"""What a cell of a table holds: text, or JSON where the column holds structure and the text looks like it."""

from typing import Any

import msgspec

from tunesmith.dataset.containers.json_text import encode, is_deep

_JSON_CELLS = frozenset(
    {"messages", "conversations", "prompt", "completion", "chosen", "rejected", "tools", "input", "history"}
    | {"preferred_output", "non_preferred_output"}
)


def value_of(column: str, cell: str) -> Any:
    """The value that the text in `cell` says."""
    if column in _JSON_CELLS and cell.lstrip()[:1] in ("[", "{"):
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


def text_of(value: Any) -> str:
    """The text for `value` in a cell."""
    if value is None:
        return ""
    return value if isinstance(value, str) else encode(value).decode()
