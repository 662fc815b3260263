"""Preference pairs: one prompt, a chosen and a rejected reply, as text or messages, in TRL's or OpenAI's spelling.

    {"prompt": …, "chosen": …, "rejected": …}        {"chosen": [whole conversation], "rejected": [whole conversation]}
    {"input": {"messages": […]}, "preferred_output": […], "non_preferred_output": […]}

References: https://huggingface.co/docs/trl/dataset_formats and OpenAI's direct preference optimization guide.
Where the prompt is only implied, it is what the two conversations have in common.
"""

from collections.abc import Mapping
from typing import Any

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.formats import features, fields
from tunesmith.dataset.formats.fields import Path, Problem, Problems, describe
from tunesmith.dataset.formats.openai import CLASHING_FIELDS, read_messages, read_tools, write_messages

COLUMNS = frozenset({"prompt", "chosen", "rejected", "tools"})
OPENAI_COLUMNS = frozenset({"input", "preferred_output", "non_preferred_output"})
CANNOT_CARRY = (features.DESIRABLE, features.TRAINED_TURNS, CLASHING_FIELDS)


def matches(row: Mapping[str, Any]) -> bool:
    """Whether `row` is meant as this format."""
    return ("chosen" in row and "rejected" in row) or ("preferred_output" in row and "non_preferred_output" in row)


def read(row: Mapping[str, Any], problems: Problems) -> Conversation:
    """The conversation in `row`, its chosen reply in place and the rejected one beside it."""
    if "preferred_output" in row:
        return _read_openai(row, problems)
    chosen = _reply(row, "chosen", problems)
    rejected = _reply(row, "rejected", problems)
    if "prompt" in row:
        prompt = _prompt(row, problems)
    else:
        prompt = _common(chosen, rejected)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    _must_end_with_assistant(chosen, ("chosen",), problems)
    _must_end_with_assistant(rejected, ("rejected",), problems)
    return Conversation(
        messages=(*prompt, *chosen),
        completion_start=len(prompt),
        rejected=rejected,
        tools=read_tools(row, (), problems),
        label=fields.label(row),
        metadata=fields.metadata(row, COLUMNS),
    )


def write(row: Conversation) -> dict[str, Any]:
    """The row as `prompt`, `chosen` and `rejected` messages."""
    written: dict[str, Any] = {
        "prompt": write_messages(row.prompt),
        "chosen": write_messages(row.completion),
        "rejected": write_messages(row.rejected),
    }
    if row.tools:
        written["tools"] = list(row.tools)
    return written


def _read_openai(row: Mapping[str, Any], problems: Problems) -> Conversation:
    asked = row.get("input")
    if not isinstance(asked, dict):
        problems.append(Problem(("input",), describe(asked), "an object with `messages`"))
        asked = {"messages": [{"role": "user", "content": ""}]}
    prompt = read_messages(asked, "messages", ("input",), problems)
    chosen = read_messages(row, "preferred_output", (), problems)
    rejected = read_messages(row, "non_preferred_output", (), problems)
    _must_end_with_assistant(chosen, ("preferred_output",), problems)
    _must_end_with_assistant(rejected, ("non_preferred_output",), problems)
    return Conversation(
        messages=(*prompt, *chosen),
        completion_start=len(prompt),
        rejected=rejected,
        tools=read_tools(asked, ("input",), problems),
        label=fields.label(row),
        metadata=fields.metadata(row, OPENAI_COLUMNS),
    )


def _prompt(row: Mapping[str, Any], problems: Problems) -> tuple[Message, ...]:
    if row.get("prompt") == []:
        return ()
    if isinstance(row["prompt"], list):
        return read_messages(row, "prompt", (), problems)
    return (Message("user", fields.text(row, "prompt", (), problems)),)


def _reply(row: Mapping[str, Any], key: str, problems: Problems) -> tuple[Message, ...]:
    if isinstance(row.get(key), list):
        return read_messages(row, key, (), problems)
    return (Message("assistant", fields.text(row, key, (), problems)),)


def _common(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages both begin with, at most up to the last one: a reply must remain on both sides."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    return chosen[:shared]


def _must_end_with_assistant(reply: tuple[Message, ...], path: Path, problems: Problems) -> None:
    if reply and reply[-1].role != "assistant":
        where = (*path, len(reply) - 1, "role")
        problems.append(Problem(where, describe(reply[-1].role), "`assistant`: a reply to prefer or reject"))
