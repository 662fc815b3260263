"""What a row may have that some format cannot carry: each feature in words, and whether a row has it.

A format lists those that concern it as its `CANNOT_CARRY`.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

from tunesmith.dataset.conversation import Conversation


class Feature(NamedTuple):
    """Something a row may have."""

    words: str
    is_in: Callable[[Conversation], bool]


def clashing_fields(names: Collection[str]) -> Feature:
    """Other fields of messages whose names, `names`, the format uses itself."""
    return Feature(
        "fields of messages that mean something else there",
        lambda row: any(
            message.extra is not None and not message.extra.keys().isdisjoint(names)
            for message in (*row.messages, *row.rejected)
        ),
    )


REJECTED = Feature("the rejected reply", lambda row: bool(row.rejected))
DESIRABLE = Feature("the desirable mark", lambda row: row.desirable is not None)
LABEL = Feature("the label", lambda row: row.label is not None)
UNTRAINED_TURNS = Feature(
    "which assistant turns are trained on",
    lambda row: row.completion_start is not None and any(message.role == "assistant" for message in row.prompt),
)
TRAINED_TURNS = Feature(
    "that earlier assistant turns are trained on",
    lambda row: (
        row.completion_start is None
        and any(message.role == "assistant" and message.weight != 0 for message in row.prompt)
    ),
)
TOOLS = Feature(
    "tools",
    lambda row: bool(row.tools) or any(message.tool_calls or message.role == "tool" for message in row.messages),
)
WEIGHTS = Feature("weights", lambda row: any(message.weight is not None for message in row.messages))
THINKING = Feature("thinking", lambda row: any(message.thinking is not None for message in row.messages))
NAMES = Feature("names of speakers", lambda row: any(message.name is not None for message in row.messages))
EXTRAS = Feature("other fields of messages", lambda row: any(message.extra for message in row.messages))
DEVELOPER = Feature(
    "that the system text is a developer's", lambda row: any(message.role == "developer" for message in row.messages)
)
EMPTY_SYSTEM = Feature(
    "an empty system text",
    lambda row: any(message.role in ("system", "developer") and not message.content for message in row.messages[:1]),
)
