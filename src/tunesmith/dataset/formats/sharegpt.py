"""ShareGPT's conversations, as Vicuna, LLaMA-Factory and Axolotl read them.

    {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}], "system": "…", "tools": "[…]"}

Reference: https://llamafactory.readthedocs.io/en/latest/getting_started/data_preparation.html (`function_call` and
`observation` turns carry tool use).
"""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from tunesmith.dataset.conversation import Conversation, Message, Role, ToolCall
from tunesmith.dataset.formats import features, fields
from tunesmith.dataset.formats.features import Feature
from tunesmith.dataset.formats.fields import Path, Problem, Problems, describe
from tunesmith.dataset.formats.openai import read_tools

SPEAKERS: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_call": "assistant",
}
WRITTEN: dict[Role, str] = {
    "user": "human",
    "assistant": "gpt",
    "system": "system",
    "developer": "system",
    "tool": "observation",
}
COLUMNS = frozenset({"conversations", "system", "tools"})
TURN_FIELDS = frozenset({"from", "value", "weight"})
CANNOT_CARRY = (
    features.REJECTED,
    features.DESIRABLE,
    features.UNTRAINED_TURNS,
    features.THINKING,
    features.NAMES,
    features.DEVELOPER,
    features.clashing_fields(TURN_FIELDS),
    Feature(
        "ids of tool calls",
        lambda row: any(
            message.tool_call_id is not None or any(call.id is not None for call in message.tool_calls)
            for message in row.messages
        ),
    ),
    Feature(
        "that several calls, or text and a call, are one turn",
        lambda row: any(
            message.tool_calls and len(message.tool_calls) + bool(message.content) > 1 for message in row.messages
        ),
    ),
)


def matches(row: Mapping[str, Any]) -> bool:
    """Whether `row` is meant as this format."""
    return "conversations" in row


def read(row: Mapping[str, Any], problems: Problems) -> Conversation:
    """The conversation in `row`."""
    messages = []
    if system := fields.optional_text(row, "system", (), problems):
        messages.append(Message("system", system))
    for index, turn in enumerate(fields.rows(row, "conversations", (), problems, "turns")):
        messages.append(_read_turn(turn, ("conversations", index), problems))
    if messages and not any(message.role == "assistant" for message in messages):
        problems.append(Problem(("conversations",), "no turn of gpt", "a turn of gpt to learn from"))
    return Conversation(
        messages=tuple(messages),
        tools=read_tools(row, (), problems),
        label=fields.label(row),
        metadata=fields.metadata(row, COLUMNS),
    )


def write(row: Conversation) -> dict[str, Any]:
    """The row as a ShareGPT object."""
    turns: list[dict[str, Any]] = []
    for message in row.messages:
        if message.content or not message.tool_calls:
            turns.append({"from": WRITTEN[message.role], "value": message.content})
        turns += [{"from": "function_call", "value": _write_call(call)} for call in message.tool_calls]
        if message.weight is not None:
            turns[-1]["weight"] = message.weight
        turns[-1] |= fields.other_fields(message, TURN_FIELDS)
    written: dict[str, Any] = {"conversations": turns}
    if row.tools:
        written["tools"] = fields.json_text(row.tools)
    return written


def _read_turn(turn: dict[str, Any], path: Path, problems: Problems) -> Message:
    # Data sets on the hub mix the spellings {from, value} and {role, content} under `conversations`.
    who, what = ("role", "content") if "role" in turn and "from" not in turn else ("from", "value")
    speaker = turn.get(who)
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        where = (*path, who) if who in turn else path
        found = describe(speaker) if who in turn else "nothing"
        problems.append(Problem(where, found, f"`{who}`: human, gpt, system, function_call or observation"))
        speaker = "human"
    value = fields.text(turn, what, path, problems)
    weight, extra = fields.weight(turn, path, problems), fields.unclaimed(turn, {who, what, "weight"})
    if speaker == "function_call":
        calls = _read_calls(value, (*path, what), problems)
        return Message("assistant", tool_calls=calls, weight=weight, extra=extra)
    return Message(SPEAKERS[speaker], value, weight=weight, extra=extra)


def _write_call(call: ToolCall) -> str:
    """The call as JSON text, its arguments an object as other readers want them, unless that would change a space."""
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict) or json.dumps(arguments, ensure_ascii=False) != call.arguments:
        arguments = call.arguments
    return json.dumps({"name": call.name, "arguments": arguments}, ensure_ascii=False)


def _read_calls(value: str, path: Path, problems: Problems) -> tuple[ToolCall, ...]:
    try:
        decoded = msgspec.json.decode(value)  # unlike Python's parser it takes no NaN and no lone surrogates
    except (ValueError, RecursionError):
        decoded = None
    calls = []
    for call in decoded if isinstance(decoded, list) else [decoded]:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            problems.append(Problem(path, describe(value), 'JSON such as {"name": "…", "arguments": {…}}'))
            return ()
        arguments = call.get("arguments", {})
        if not isinstance(arguments, str):
            arguments = fields.json_text(arguments)
        calls.append(ToolCall(call["name"], arguments))
    return tuple(calls)
