"""OpenAI's chat rows, and the messages that most other formats are made of.

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…", "weight": 1}], "tools": […]}

Reference: https://platform.openai.com/docs/guides/fine-tuning and the chat completions API. `reasoning_content` (and
`thinking`) on an assistant message is what Hugging Face's chat templates read.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec
from msgspec import Struct

from tunesmith.dataset.conversation import Conversation, Message, Role, ToolCall
from tunesmith.dataset.formats import features, fields
from tunesmith.dataset.formats.fields import Path, Problem, Problems, describe

ROLES = frozenset(get_args(Role))
COLUMNS = frozenset({"messages", "tools"})
MESSAGE_FIELDS = frozenset(
    {"role", "content", "thinking", "reasoning_content", "tool_calls", "tool_call_id", "name", "weight"}
)
PLAIN_START, PLAIN_END = b'{"messages"', b"}]}"
"""Of nearly every row that is plain; of the others few."""

CLASHING_FIELDS = features.clashing_fields(MESSAGE_FIELDS)
CANNOT_CARRY = (features.REJECTED, features.DESIRABLE, CLASHING_FIELDS)


class _Turn(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    role: Role
    content: str


class _Turns(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    messages: tuple[_Turn, ...]


_PLAIN = msgspec.json.Decoder(_Turns)


def matches(row: Mapping[str, Any]) -> bool:
    """Whether `row` is meant as this format."""
    return "messages" in row


def read(row: Mapping[str, Any], problems: Problems) -> Conversation:
    """The conversation in `row`."""
    conversation = read_messages(row, "messages", (), problems)
    if conversation and not any(message.role == "assistant" for message in conversation):
        problems.append(Problem(("messages",), "no assistant message", "an assistant message to learn from"))
    return Conversation(
        messages=conversation,
        tools=read_tools(row, (), problems),
        label=fields.label(row),
        metadata=fields.metadata(row, COLUMNS),
    )


def read_plain(line: bytes) -> tuple[Message, ...] | None:
    """The messages of a row in JSON of roles and contents and nothing else; None where `read` must look at the row.

    Most rows there are. The decoder that knows the one shape it may meet makes messages in the time that reading the
    same row by way of dictionaries takes only to make those.
    """
    if not (line.startswith(PLAIN_START) and line.rstrip().endswith(PLAIN_END)):
        return None
    try:
        turns = _PLAIN.decode(line).messages
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    messages = tuple([Message(turn.role, turn.content) for turn in turns])
    return messages if "assistant" in [turn.role for turn in turns] else None


def write(row: Conversation) -> dict[str, Any]:
    """The row as an OpenAI chat object; turns that are not trained on get weight 0."""
    written: dict[str, Any] = {"messages": write_messages(_with_weights(row))}
    if row.tools:
        written["tools"] = list(row.tools)
    return written


def _with_weights(row: Conversation) -> Sequence[Message]:
    """`completion_start` in OpenAI's terms: earlier assistant turns weigh nothing."""
    if row.completion_start is None:
        return row.messages
    return [
        msgspec.structs.replace(message, weight=0)
        if index < row.completion_start and message.role == "assistant"
        else message
        for index, message in enumerate(row.messages)
    ]


def read_messages(row: Mapping[str, Any], key: str, path: Path, problems: Problems) -> tuple[Message, ...]:
    """The list of messages at `row[key]`."""
    messages = fields.rows(row, key, path, problems, "messages")
    return tuple(_read_message(message, (*path, key, index), problems) for index, message in enumerate(messages))


def _read_message(message: dict[str, Any], path: Path, problems: Problems) -> Message:
    role, content = message.get("role"), message.get("content")
    if len(message) == 2 and type(content) is type(role) is str and role in ROLES:  # nearly every message there is
        return Message(role, content)  # type: ignore[arg-type]  # checked in the line above
    if not isinstance(role, str) or role not in ROLES:
        found = describe(role) if "role" in message else "nothing"
        where = (*path, "role") if "role" in message else path
        problems.append(Problem(where, found, "`role`: system, developer, user, assistant or tool"))
        role = "user"
    calls = _read_tool_calls(message, path, problems)
    thinking = "thinking" if "thinking" in message else "reasoning_content"
    if role != "assistant":
        for key in ("tool_calls", thinking):
            if message.get(key):
                problems.append(Problem((*path, key), describe(message[key]), f"`{key}` in assistant messages only"))
    return Message(
        role=role,  # type: ignore[arg-type]  # checked above
        content=_read_content(message, path, problems, required=not calls),
        thinking=fields.optional_text(message, thinking, path, problems),
        tool_calls=calls,
        tool_call_id=fields.optional_text(message, "tool_call_id", path, problems),
        name=fields.optional_text(message, "name", path, problems),
        weight=fields.weight(message, path, problems),
        extra=fields.unclaimed(message, MESSAGE_FIELDS),
    )


def _read_content(message: dict[str, Any], path: Path, problems: Problems, *, required: bool) -> str:
    """A string, or OpenAI's list of text parts; null only beside tool calls."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and not required:
        return ""
    if isinstance(content, list):
        for index, part in enumerate(content):
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                kind = describe(part.get("type")) if isinstance(part, dict) else describe(part)
                problems.append(Problem((*path, "content", index), f"a part of type {kind}", "a text part"))
                return ""
        return "".join(part["text"] for part in content)
    found = describe(content) if "content" in message else "nothing"
    where = (*path, "content") if "content" in message else path
    problems.append(Problem(where, found, "`content`, a string" + ("" if required else " or null")))
    return ""


def _read_tool_calls(message: dict[str, Any], path: Path, problems: Problems) -> tuple[ToolCall, ...]:
    if message.get("tool_calls") in (None, []):
        return ()
    calls = []
    for index, call in enumerate(fields.rows(message, "tool_calls", path, problems, "tool calls")):
        where = (*path, "tool_calls", index)
        function = call.get("function", call)
        if not isinstance(function, dict):
            problems.append(Problem((*where, "function"), describe(function), "an object with `name` and `arguments`"))
            continue
        if "function" in call:
            where = (*where, "function")
        arguments = function.get("arguments", "{}")
        if not isinstance(arguments, str):  # templates write them as objects
            arguments = fields.json_text(arguments)
        identity = fields.optional_text(call, "id", (*path, "tool_calls", index), problems)
        calls.append(ToolCall(fields.text(function, "name", where, problems), arguments, identity))
    return tuple(calls)


def read_tools(row: Mapping[str, Any], path: Path, problems: Problems) -> tuple[dict[str, Any], ...]:
    """The tool schemas of `row`: a list, or (as data sets on the hub keep them) the same list as JSON text."""
    tools = row.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = msgspec.json.decode(tools)  # unlike Python's parser it takes no NaN and no lone surrogates
        except (ValueError, RecursionError):
            problems.append(Problem((*path, "tools"), describe(tools), "a list of tool schemas"))
            return ()
    if tools in (None, "", []):
        return ()
    return tuple(fields.rows({"tools": tools}, "tools", path, problems, "tools"))


def write_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages in OpenAI's form."""
    return [_write_message(message) for message in messages]


def _write_message(message: Message) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking is not None:
        written["reasoning_content"] = message.thinking
    if message.tool_calls:
        written["tool_calls"] = [
            ({} if call.id is None else {"id": call.id})
            | {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    for key in ("tool_call_id", "name", "weight"):
        value = getattr(message, key)
        if value is not None:
            written[key] = value
    return written | fields.other_fields(message, MESSAGE_FIELDS)
