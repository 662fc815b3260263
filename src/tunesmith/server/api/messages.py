"""The `messages` of a chat request, read and rendered by the code that reads and renders training rows.

So a model is asked in the form in which it was taught, and a wrong message is told with the same path. A row of data
may have fields of its own; a request may not: one that nobody reads is refused by its path, as OpenAI does.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.formats.fields import Path, Problems, dotted
from tunesmith.dataset.formats.openai import MESSAGE_FIELDS, read_messages
from tunesmith.server.api import tools
from tunesmith.server.errors import RequestError
from tunesmith.server.language import Language

WITHOUT_EFFECT = frozenset({"refusal", "annotations", "parsed"})
"""What a client sends back with a reply that it was given; `parsed` is what OpenAI's SDK makes of one."""

CALL_FIELDS = frozenset({"id", "type", "function", "index"})
FUNCTION_FIELDS = frozenset({"name", "arguments", "parsed_arguments"})
"""Of a call; the last of each is what the SDK's `stream` and `parse` leave there."""

NOT_SERVED = frozenset({"audio", "function_call"})
"""The same, but null: a model here neither speaks nor calls in the form before `tool_calls`."""


def read_conversation(messages: Sequence[Mapping[str, Any]], offered: tuple[dict[str, Any], ...] = ()) -> Conversation:
    """The messages, and the tools that are offered, as a conversation to go on from.

    Raises RequestError with the path of what is wrong.
    """
    problems: Problems = []
    read = read_messages({"messages": messages}, "messages", (), problems)
    if problems:
        problem = problems[0]
        raise RequestError(
            f"{dotted(problem.path)}: found {problem.found}; expected {problem.expected}",
            code="invalid_value",
            param=_param(problem.path),
        )
    for number, message in enumerate(messages):
        _check_fields(message, ("messages", number))
    try:
        msgspec.json.encode(read)
    except UnicodeEncodeError as error:  # JSON can spell half a character (`\ud800`); no tokenizer can
        raise RequestError("messages: not valid Unicode text", code="invalid_value", param="messages") from error
    conversation = Conversation(messages=read, completion_start=len(read), tools=offered)
    tools.check_results(conversation)
    return conversation


def render_prompt(language: Language, conversation: Conversation) -> tuple[int, ...]:
    """The tokens that ask a model for the next turn. Raises RequestError."""
    from tunesmith.dataset.render import Renderer

    renderer = Renderer(language.tokenizer)
    tools.check_written(renderer, conversation)
    return tuple(renderer.prompt(conversation))


def _check_fields(message: Mapping[str, Any], path: Path) -> None:
    """Refuse a field that is not read, in the message, its parts or its calls. Raises RequestError."""
    _refuse_others(message, MESSAGE_FIELDS | WITHOUT_EFFECT | NOT_SERVED, path)
    for field in NOT_SERVED:
        if message.get(field) is not None:
            param = _param((*path, field))
            raise RequestError(f"{param}: not served here", code="unsupported_value", param=param)
    content = message["content"] if isinstance(message.get("content"), list) else ()
    for number, part in enumerate(content):
        _refuse_others(part, {"type", "text"}, (*path, "content", number))
    for number, call in enumerate(message.get("tool_calls") or ()):
        where = (*path, "tool_calls", number)
        _refuse_others(call, CALL_FIELDS, where)
        _refuse_others(call.get("function", {}), FUNCTION_FIELDS, (*where, "function"))


def _refuse_others(fields: Mapping[str, Any], known: Collection[str], path: Path) -> None:
    unknown = next((field for field in fields if field not in known), None)
    if unknown is not None:
        param = _param((*path, unknown))
        raise RequestError(f"Unknown parameter: '{param}'.", code="unknown_parameter", param=param)


def _param(path: Path) -> str:
    return dotted(path).removeprefix("$.")
