"""Reading one field and saying what is wrong with it: every format's parser is made of these.

A parser never stops at the first mistake: it notes a `Problem` and reads on, so a person mends a row once. A row with
problems is thrown away, so what a parser returns beside them does not matter.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from tunesmith.dataset.conversation import Message

Path: TypeAlias = tuple[str | int, ...]

SHOWN_CHARACTERS = 40


class Problem(NamedTuple):
    """What is wrong with the field at `path` of one row."""

    path: Path
    found: str
    expected: str


Problems: TypeAlias = list[Problem]


def dotted(path: Path) -> str:
    """The path as people write it: `$.messages[2].role`."""
    return "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)


def describe(value: Any) -> str:
    """`value` in a few words, for an error message."""
    match value:
        case None:
            return "null"
        case bool() | int() | float():
            return json.dumps(value)
        case str():
            short = value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}…"
            return json.dumps(short, ensure_ascii=False)
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
        case _:
            return "an object" if value else "an empty object"


def json_text(value: Any) -> str:
    """`value` as JSON text; what Parquet holds and JSON does not (bytes, times) as the text of it."""
    return json.dumps(value, ensure_ascii=False, default=str)


def text(fields: Mapping[str, Any], key: str, path: Path, problems: Problems) -> str:
    """The string at `key`."""
    value = fields.get(key)
    if isinstance(value, str):
        return value
    found = describe(value) if key in fields else "nothing"
    problems.append(Problem((*path, key) if key in fields else path, found, f"`{key}`, a string"))
    return ""


def optional_text(fields: Mapping[str, Any], key: str, path: Path, problems: Problems) -> str | None:
    """The string at `key`, or None where it is absent or null."""
    return None if fields.get(key) is None else text(fields, key, path, problems)


def rows(fields: Mapping[str, Any], key: str, path: Path, problems: Problems, what: str) -> list[dict[str, Any]]:
    """The non-empty list of objects at `key`; `what` they are is for the message."""
    value = fields.get(key)
    if not isinstance(value, list) or not value:
        found = describe(value) if key in fields else "nothing"
        problems.append(Problem((*path, key) if key in fields else path, found, f"`{key}`, a list of {what}"))
        return []
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            problems.append(Problem((*path, key, index), describe(item), f"{what[:-1]}: an object"))
    return value if all(isinstance(item, dict) for item in value) else []


def metadata(fields: Mapping[str, Any], columns: Collection[str]) -> dict[str, Any]:
    """The fields that neither the format (its are `columns`) nor the row's class claims."""
    named = isinstance(fields.get("label"), str)
    return {key: value for key, value in fields.items() if key not in columns and not (named and key == "label")}


def unclaimed(fields: Mapping[str, Any], known: Collection[str]) -> dict[str, Any] | None:
    """The fields of a message that the format does not claim and that say something; None where there are none."""
    return {key: value for key, value in fields.items() if key not in known and value is not None} or None


def other_fields(message: Message, known: Collection[str]) -> dict[str, Any]:
    """The fields in `message.extra`, without the names that the format uses itself."""
    return {key: value for key, value in (message.extra or {}).items() if key not in known}


def weight(fields: Mapping[str, Any], path: Path, problems: Problems) -> Literal[0, 1] | None:
    """The weight of a message; None where it is absent or null."""
    value = fields.get("weight")
    if value is None:
        return None
    if isinstance(value, bool) or value not in (0, 1):
        problems.append(Problem((*path, "weight"), describe(value), "0 or 1"))
    return 1 if value == 1 else 0


def label(fields: Mapping[str, Any]) -> str | None:
    """The class that the row names in a string field `label`."""
    value = fields.get("label")
    return value if isinstance(value, str) else None
