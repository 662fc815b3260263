"""The row formats, one file each: how to recognize, read and write one row, and what the format cannot carry.

A format is detected row by row, so a file may mix them. To add one: a module of the shape of `Format`, and its line in
`FORMATS`, before any format whose rows it would be mistaken for.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.formats import alpaca, anthropic, features, openai, preference, prompt_completion, sharegpt, text
from tunesmith.dataset.formats.features import Feature
from tunesmith.dataset.formats.fields import Problems
from tunesmith.errors import SpecError


class Format(Protocol):
    """What a format's module provides."""

    CANNOT_CARRY: Sequence[Feature]
    """What `write` would lose."""

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Whether `row` is meant as this format."""

    def read(self, row: Mapping[str, Any], problems: Problems) -> Conversation:
        """The conversation in `row`; what is wrong with it is added to `problems`."""

    def write(self, row: Conversation) -> dict[str, Any]:
        """The conversation of `row` in this format, without its label and metadata."""


FORMATS: dict[str, Format] = {
    "preference": cast(Format, preference),
    "sharegpt": cast(Format, sharegpt),
    "anthropic": cast(Format, anthropic),
    "openai": cast(Format, openai),
    "alpaca": cast(Format, alpaca),
    "prompt-completion": cast(Format, prompt_completion),
    "text": cast(Format, text),
}
"""Name → format, in the order of detection."""


def find_format(name: str) -> Format:
    """The format called `name`. Raises SpecError that lists the known ones."""
    if name not in FORMATS:
        raise SpecError(f"format {name}: not a known format; use {', '.join(sorted(FORMATS))}")
    return FORMATS[name]


def detect(row: Mapping[str, Any]) -> str | None:
    """The name of the format that `row` is in, from its keys; None when it is none of them."""
    return next((name for name, row_format in FORMATS.items() if row_format.matches(row)), None)


def write_row(row: Conversation, name: str) -> dict[str, Any]:
    """`row` as an object in format `name`, without what the format cannot carry."""
    written = FORMATS[name].write(row)
    if row.label is not None and features.LABEL not in FORMATS[name].CANNOT_CARRY:
        written.setdefault("label", row.label)
    return written | _kept_metadata(row, written)


def cannot_carry(row: Conversation, name: str) -> list[str]:
    """What of `row` format `name` would lose, in words."""
    lost = [feature.words for feature in FORMATS[name].CANNOT_CARRY if feature.is_in(row)]
    if row.metadata:
        kept = _kept_metadata(row, FORMATS[name].write(row))
        lost += [
            f"the column `{column}`, which means something else there" for column in row.metadata if column not in kept
        ]
    return lost


def _kept_metadata(row: Conversation, written: dict[str, Any]) -> dict[str, Any]:
    """The columns that are read back as metadata beside `written`, and not as the format's own or as another's."""
    kept: dict[str, Any] = {}
    if not row.metadata or (name := detect(written)) is None:
        return kept
    for column, value in row.metadata.items():
        whole = written | kept | {column: value}
        if column not in written and detect(whole) == name and column in FORMATS[name].read(whole, []).metadata:
            kept[column] = value
    return kept
