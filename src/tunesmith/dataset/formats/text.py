"""Plain text, for continued pretraining: every token is trained on.

{"text": "…"}
"""

from collections.abc import Mapping
from typing import Any

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.formats import fields
from tunesmith.dataset.formats.fields import Problems


def matches(row: Mapping[str, Any]) -> bool:
    """Whether `row` is meant as this format."""
    return "text" in row


def read(row: Mapping[str, Any], problems: Problems) -> Conversation:
    """The text in `row`."""
    return Conversation(text=fields.text(row, "text", (), problems), metadata=fields.rest(row, ("text",)))


def write(row: Conversation) -> dict[str, Any]:
    """The row as an object with its text."""
    return {"text": row.text or ""} | row.metadata


def cannot_carry(row: Conversation) -> list[str]:
    """What of `row` would be lost: a conversation has no plain text without some model's template."""
    return [] if row.text is not None else ["the turns"]
