"""Alpaca's instruction rows, with LLaMA-Factory's `system` and `history`.

    {"instruction": "…", "input": "…", "output": "…", "system": "…", "history": [["question", "answer"]]}

Reference: https://github.com/tatsu-lab/stanford_alpaca. Instruction and input become one user turn, a blank line
between them: the chat template of the model takes the place of Alpaca's own prompt text.
"""

from collections.abc import Mapping
from typing import Any

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.formats import fields
from tunesmith.dataset.formats.fields import Problem, Problems, describe

KNOWN = frozenset({"instruction", "input", "output", "system", "history", "label"})


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
        metadata=fields.rest(row, KNOWN if isinstance(row.get("label"), str) else KNOWN - {"label"}),
    )


def write(row: Conversation) -> dict[str, Any]:
    """The row as an Alpaca object, its `input` empty."""
    messages = [message for message in row.messages if message.role not in ("system", "developer", "tool")]
    turns = [message.content for message in messages]
    written: dict[str, Any] = {"instruction": turns[-2] if len(turns) > 1 else "", "input": "", "output": turns[-1]}
    if row.messages[0].role in ("system", "developer"):
        written["system"] = row.messages[0].content
    if len(turns) > 2:
        written["history"] = [list(pair) for pair in zip(turns[:-2:2], turns[1:-2:2], strict=False)]
    if row.label is not None:
        written["label"] = row.label
    return written | row.metadata


def cannot_carry(row: Conversation) -> list[str]:
    """What of `row` would be lost."""
    lost = []
    if row.rejected:
        lost.append("the rejected reply")
    if row.desirable is not None:
        lost.append("the desirable mark")
    if row.completion_start is not None and any(m.role == "assistant" for m in row.prompt):
        lost.append("which assistant turns are trained on")
    if row.tools or any(message.tool_calls or message.role == "tool" for message in row.messages):
        lost.append("tools")
    if any(message.weight is not None for message in row.messages):
        lost.append("weights")
    if any(message.thinking is not None for message in row.messages):
        lost.append("thinking")
    if any(message.name is not None for message in row.messages):
        lost.append("names of speakers")
    turns = [m.role for m in row.messages[1 if row.messages[0].role in ("system", "developer") else 0 :]]
    if turns != ["user", "assistant"] * (len(turns) // 2) or not turns:
        lost.append("turns that are not user and assistant by turns")
    if row.messages[0].role == "system" and not row.messages[0].content:
        lost.append("an empty system text")
    return lost
