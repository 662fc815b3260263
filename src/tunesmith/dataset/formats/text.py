"""Plain text, for continued pretraining: every token is trained on.

{"text": "…"}
"""

from collections.abc import Mapping
from typing import Any

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.formats import features, fields
from tunesmith.dataset.formats.features import Feature
from tunesmith.dataset.formats.fields import Problems

CANNOT_CARRY = (
    features.LABEL,
    Feature("the turns, which are text only by some model's template", lambda row: row.text is None),
)


def matches(row: Mapping[str, Any]) -> bool:
    """Whether `row` is meant as this format."""
    return "text" in row


def read(row: Mapping[str, Any], problems: Problems) -> Conversation:
    """The text in `row`."""
    return Conversation(text=fields.text(row, "text", (), problems), metadata=fields.metadata(row, ("text",)))


def write(row: Conversation) -> dict[str, Any]:
    """The row as an object with its text."""
    return {"text": row.text or ""}
