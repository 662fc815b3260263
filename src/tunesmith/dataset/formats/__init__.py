"""The row formats, one file each: how to recognize, read and write one row, and what the format cannot carry.

A format is detected row by row, so a file may mix them. To add one: a module of the shape of `Format`, and its line in
`FORMATS`, before any format whose rows it would be mistaken for.
"""

from collections.abc import Mapping
from typing import Any, Protocol, cast

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.formats import alpaca, anthropic, openai, preference, prompt_completion, sharegpt, text
from tunesmith.dataset.formats.fields import Problems
from tunesmith.errors import SpecError


class Format(Protocol):
    """What a format's module provides."""

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Whether `row` is meant as this format."""

    def read(self, row: Mapping[str, Any], problems: Problems) -> Conversation:
        """The conversation in `row`; what is wrong with it is added to `problems`."""

    def write(self, row: Conversation) -> dict[str, Any]:
        """`row` in this format."""

    def cannot_carry(self, row: Conversation) -> list[str]:
        """What of `row` `write` would lose, in words."""


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
