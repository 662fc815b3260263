"""Anthropic's messages: the system text on top, content as text or blocks, tool results inside user turns.

    {"system": "…", "messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": [blocks]}]}

Reference: https://docs.anthropic.com/en/api/messages. A row that has neither a system text nor blocks looks the same
in OpenAI's format and reads the same.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from tunesmith.dataset.conversation import Conversation, Message, ToolCall
from tunesmith.dataset.formats import features, fields
from tunesmith.dataset.formats.features import Feature
from tunesmith.dataset.formats.fields import Path, Problem, Problems, describe

COLUMNS = frozenset({"system", "messages", "tools"})
BLOCKS = ("tool_use", "tool_result", "thinking", "redacted_thinking")
OWN_FIELDS = frozenset({"role", "content"})
TEXT_FIELDS = frozenset({"type", "text"})
THINKING_FIELDS = frozenset({"type", "thinking"})
CALL_FIELDS = frozenset({"type", "id", "name", "input"})
RESULT_FIELDS = frozenset({"type", "content", "tool_use_id"})
TOOL_FIELDS = frozenset({"name", "description", "input_schema"})
CANNOT_CARRY = (
    features.REJECTED,
    features.DESIRABLE,
    features.UNTRAINED_TURNS,
    features.WEIGHTS,
    features.NAMES,
    features.DEVELOPER,
    features.clashing_fields(OWN_FIELDS | RESULT_FIELDS | TEXT_FIELDS),
    features.EMPTY_SYSTEM,
    Feature("fields of tools that mean something else there", lambda row: any(map(_has_other_fields, row.tools))),
    Feature(
        "system text after the first message",
        lambda row: any(message.role in ("system", "developer") for message in row.messages[1:]),
    ),
    Feature(
        "tool arguments that are not a JSON object",
        lambda row: any(_arguments(call) is None for message in row.messages for call in message.tool_calls),
    ),
)


def matches(row: Mapping[str, Any]) -> bool:
    """Whether `row` is meant as this format: a top-level system text, its tool schemas, or its blocks."""
    messages = row.get("messages")
    if not isinstance(messages, list):
        return False
    if "system" in row:
        return True
    tools = row.get("tools")
    if isinstance(tools, list) and tools and isinstance(tools[0], dict) and "input_schema" in tools[0]:
        return True
    return any(
        isinstance(block, dict) and block.get("type") in BLOCKS
        for message in messages
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        for block in message["content"]
    )


def read(row: Mapping[str, Any], problems: Problems) -> Conversation:
    """The conversation in `row`."""
    messages: list[Message] = []
    if row.get("system") not in (None, ""):
        others: Others = {}
        for block in row["system"] if isinstance(row["system"], list) else ():
            _keep(others, block, TEXT_FIELDS)
        messages.append(Message("system", _plain(row["system"], ("system",), problems), extra=_merged(others)))
    for index, message in enumerate(fields.rows(row, "messages", (), problems, "messages")):
        messages.extend(_read_message(message, ("messages", index), problems))
    if messages and not any(message.role == "assistant" for message in messages):
        problems.append(Problem(("messages",), "no assistant message", "an assistant message to learn from"))
    return Conversation(
        messages=tuple(messages),
        tools=_read_tools(row, problems),
        label=fields.label(row),
        metadata=fields.metadata(row, COLUMNS),
    )


def write(row: Conversation) -> dict[str, Any]:
    """The row as an object of Anthropic's API."""
    messages = list(row.messages)
    written: dict[str, Any] = {}
    if messages and messages[0].role in ("system", "developer"):
        system = messages.pop(0)
        others = fields.other_fields(system, TEXT_FIELDS)
        written["system"] = [{"type": "text", "text": system.content} | others] if others else system.content
    written["messages"] = _write_messages(messages)
    if row.tools:
        written["tools"] = [_write_tool(tool) for tool in row.tools]
    return written


def _read_message(message: dict[str, Any], path: Path, problems: Problems) -> list[Message]:
    """One message; a user turn with tool results becomes one tool message per result, then the user's text.

    What else its blocks say (a signature, where a cache ends) is kept as other fields of the message.
    """
    role, content = message.get("role"), message.get("content")
    extra = fields.unclaimed(message, OWN_FIELDS)
    if role not in ("user", "assistant"):
        found = describe(role) if "role" in message else "nothing"
        problems.append(Problem((*path, "role") if "role" in message else path, found, "`role`: user or assistant"))
        return []
    if isinstance(content, str):
        return [Message(role, content, extra=extra)]
    if not isinstance(content, list):
        found = describe(content) if "content" in message else "nothing"
        where = (*path, "content") if "content" in message else path
        problems.append(Problem(where, found, "`content`, a string or a list of blocks"))
        return []
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    results: list[Message] = []
    others: Others = {}
    for index, block in enumerate(content):
        where = (*path, "content", index)
        if not isinstance(block, dict):
            problems.append(Problem(where, describe(block), "a block: an object"))
            continue
        match block.get("type"), role:
            case "text", _:
                texts.append(fields.text(block, "text", where, problems))
                _keep(others, block, TEXT_FIELDS)
            case "thinking", "assistant":
                thoughts.append(fields.text(block, "thinking", where, problems))
                _keep(others, block, THINKING_FIELDS)
            case "redacted_thinking", "assistant":
                _keep(others, {"redacted_thinking": fields.text(block, "data", where, problems)}, frozenset())
            case "tool_use", "assistant":
                arguments = fields.json_text(block.get("input", {}))
                identity = fields.optional_text(block, "id", where, problems)
                calls.append(ToolCall(fields.text(block, "name", where, problems), arguments, identity))
                _keep(others, block, CALL_FIELDS)
            case "tool_result", "user":
                result = _plain(block.get("content", ""), (*where, "content"), problems)
                identity = fields.optional_text(block, "tool_use_id", where, problems)
                results.append(
                    Message("tool", result, tool_call_id=identity, extra=fields.unclaimed(block, RESULT_FIELDS))
                )
            case kind, _:
                problems.append(Problem(where, f"a block of type {describe(kind)}", f"a block an {role} turn can hold"))
    extra = (_merged(others) or {}) | (extra or {}) or None
    if role == "user" and results and not texts and extra is None:
        return results
    thinking = "".join(thoughts) if thoughts else None
    return [*results, Message(role, "".join(texts), thinking, tuple(calls), extra=extra)]


def _plain(content: Any, path: Path, problems: Problems) -> str:
    """A string, or a list of text blocks."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(b, dict) and isinstance(b.get("text"), str) for b in content):
        return "".join(block["text"] for block in content)
    problems.append(Problem(path, describe(content), "a string or a list of text blocks"))
    return ""


Others: TypeAlias = dict[str, list[Any]]
"""What the blocks of one message say beside their text, calls and results: each different value once."""


def _keep(others: Others, block: Any, known: frozenset[str]) -> None:
    for key, value in (fields.unclaimed(block, known) or {}).items() if isinstance(block, dict) else ():
        if value not in others.setdefault(key, []):
            others[key].append(value)


def _merged(others: Others) -> dict[str, Any] | None:
    return {key: values[0] if len(values) == 1 else values for key, values in others.items()} or None


def _read_tools(row: Mapping[str, Any], problems: Problems) -> tuple[dict[str, Any], ...]:
    """Anthropic's `input_schema` tools in OpenAI's form."""
    if row.get("tools") in (None, []):
        return ()
    tools = []
    for index, tool in enumerate(fields.rows(row, "tools", (), problems, "tools")):
        if "input_schema" not in tool:
            tools.append(tool)
            continue
        function = {"name": fields.text(tool, "name", ("tools", index), problems)}
        function |= {"description": tool["description"]} if "description" in tool else {}
        others = fields.unclaimed(tool, TOOL_FIELDS) or {}
        tools.append({"type": "function", "function": function | {"parameters": tool["input_schema"]}} | others)
    return tuple(tools)


def _write_tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if not isinstance(function, dict):
        return tool
    written = {key: function[key] for key in ("name", "description") if key in function}
    others = {key: value for key, value in tool.items() if key not in {"type", "function"} | TOOL_FIELDS}
    return written | {"input_schema": function.get("parameters", {"type": "object"})} | others


def _has_other_fields(tool: dict[str, Any]) -> bool:
    """Whether a tool in OpenAI's form has fields that Anthropic's form keeps in another place, or not at all."""
    function = tool.get("function")
    if not isinstance(function, dict):
        return False
    inside = function.keys() - {"name", "description", "parameters"}
    return bool(inside or tool.keys() & TOOL_FIELDS or None in tool.values())


def _write_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """Tool results join the user turn that follows them, as the API wants turns to alternate."""
    written: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "tool":
            result: dict[str, Any] = {"type": "tool_result", "content": message.content}
            result |= {} if message.tool_call_id is None else {"tool_use_id": message.tool_call_id}
            results.append(result | fields.other_fields(message, RESULT_FIELDS))
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message)
        if role == "user":
            blocks, results = [*results, *blocks], []
        elif results:
            written.append({"role": "user", "content": results})
            results = []
        plain = all(block.keys() == TEXT_FIELDS for block in blocks)
        others = fields.other_fields(message, OWN_FIELDS | _own_place(message))
        written.append({"role": role, "content": message.content if plain else blocks} | others)
    if results:
        written.append({"role": "user", "content": results})
    return written


def _blocks(message: Message) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if message.thinking is not None:
        blocks.append({"type": "thinking", "thinking": message.thinking})
    hidden = (message.extra or {}).get("redacted_thinking", ()) if "redacted_thinking" in _own_place(message) else ()
    blocks += [
        {"type": "redacted_thinking", "data": data} for data in ([hidden] if isinstance(hidden, str) else hidden)
    ]
    if message.content or not (message.tool_calls or blocks):
        blocks.append({"type": "text", "text": message.content})
    for call in message.tool_calls:
        block: dict[str, Any] = {"type": "tool_use", "name": call.name, "input": _arguments(call) or {}}
        blocks.append(block | ({} if call.id is None else {"id": call.id}))
    for key in _own_place(message) - {"redacted_thinking"}:
        blocks[0 if key == "signature" else -1][key] = (message.extra or {})[key]
    return blocks


def _own_place(message: Message) -> frozenset[str]:
    """Which other fields of a message belong to a block: a thought's signature, hidden thoughts, where a cache ends."""
    extra = message.extra or {}
    names = {"cache_control"} | ({"signature"} if message.thinking is not None else set())
    if message.role == "assistant" and _are_hidden_thoughts(extra.get("redacted_thinking")):
        names.add("redacted_thinking")
    return frozenset(names & extra.keys())


def _are_hidden_thoughts(value: Any) -> bool:
    """Whether `value` is what reading encrypted thoughts gives: one text, or several different ones."""
    if not isinstance(value, list):
        return isinstance(value, str)
    return len(value) > 1 and all(isinstance(item, str) for item in value) and len(set(value)) == len(value)


def _arguments(call: ToolCall) -> dict[str, Any] | None:
    """The call's arguments as an object; None when its text is not one."""
    try:
        arguments = msgspec.json.decode(call.arguments)  # unlike Python's parser it takes no NaN
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None
