"""Alpaca's instruction rows, with LLaMA-Factory's `system` and `history`.

    {"instruction": "…", "input": "…", "output": "…", "system": "…", "history": [["question", "answer"]]}

Reference: https://github.com/tatsu-lab/stanford_alpaca. Instruction and input become one user turn, a blank line
between them: the chat template of the model takes the place of Alpaca's own prompt text. They are parted there again.
"""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.formats import features, fields
from tunesmith.dataset.formats.features import Feature
from tunesmith.dataset.formats.fields import Problem, Problems, describe

COLUMNS = frozenset({"instruction", "input", "output", "system", "history"})
SYSTEM_ROLES = ("system", "developer")


def _turns_do_not_alternate(row: Conversation) -> bool:
    turns = [message.role for message in row.messages]
    if turns[0] in SYSTEM_ROLES:
        turns.pop(0)
    return not turns or turns != ["user", "assistant"] * (len(turns) // 2)


CANNOT_CARRY = (
    features.REJECTED,
    features.DESIRABLE,
    features.UNTRAINED_TURNS,
    features.TOOLS,
    features.WEIGHTS,
    features.THINKING,
    features.NAMES,
    features.EXTRAS,
    features.DEVELOPER,
    features.EMPTY_SYSTEM,
    Feature("turns that are not user and assistant by turns", _turns_do_not_alternate),
)


def matches(row: Mapping[str, Any]) -> bool:
    """Whether `row` is meant as this format."""
    return "instruction" in row and ("output" in row or "input" in row)


def read(row: Mapping[str, Any], problems: Problems) -> Conversation:
    """The conversation in `row`."""
    messages = []
    if system := fields.optional_text(row, "system", (), problems):
        messages.append(Message("system", system))
    history = row.get("history") or []
    if not isinstance(history, list):
        problems.append(Problem(("history",), describe(history), "a list of [question, answer] pairs"))
        history = []
    for index, pair in enumerate(history):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            problems.append(Problem(("history", index), describe(pair), "a [question, answer] pair of strings"))
            continue
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    instruction = fields.text(row, "instruction", (), problems)
    given = fields.optional_text(row, "input", (), problems)
    messages.append(Message("user", f"{instruction}\n\n{given}" if given else instruction))
    messages.append(Message("assistant", fields.text(row, "output", (), problems)))
    return Conversation(
        messages=tuple(messages),
        label=fields.label(row),
        metadata=fields.metadata(row, COLUMNS),
    )


def write(row: Conversation) -> dict[str, Any]:
    """The row as an Alpaca object: `input` is what follows the first blank line of the last question."""
    turns = _alternating(row)
    instruction, _, given = turns[-2].partition("\n\n")
    if not given:
        instruction = turns[-2]
    written: dict[str, Any] = {"instruction": instruction, "input": given, "output": turns[-1]}
    if row.messages[0].role in SYSTEM_ROLES:
        written["system"] = row.messages[0].content
    if len(turns) > 2:
        written["history"] = [list(pair) for pair in zip(turns[:-2:2], turns[1:-2:2], strict=True)]
    return written


def _alternating(row: Conversation) -> list[str]:
    """What user and assistant say by turns; a speaker's messages in a row are one turn, without calls and results."""
    said = [
        message
        for message in row.messages
        if message.role in ("user", "assistant") and (message.content or not message.tool_calls)
    ]
    turns: list[str] = []
    for role, messages in groupby(said, key=lambda message: message.role):
        if not turns and role == "assistant":
            turns.append("")
        turns.append("\n\n".join(message.content for message in messages))
    turns = turns or [""]  # a row may be a call alone
    return turns if len(turns) % 2 == 0 else [*turns, ""]
