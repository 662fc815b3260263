"""`tools` and `tool_choice`: offered through the model's chat template, called in the form that it writes calls in."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.dataset.call_format import CallFormat
from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.render import SENTINEL
from tunesmith.server.call_grammar import NO_ARGUMENTS, call_grammar
from tunesmith.server.call_reader import CallPart, CallReader
from tunesmith.server.errors import RequestError
from tunesmith.server.guide import Guide
from tunesmith.server.language import Language

if TYPE_CHECKING:
    from tunesmith.dataset.render import Renderer


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Function(_Body):
    """`tools[].function`."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = Field(
        None, description="accepted; arguments surely follow the schema where a call is required"
    )


class Tool(_Body):
    """`tools[]`."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Body):
    """`tool_choice.function`."""

    name: str


class NamedTool(_Body):
    """`tool_choice` that asks for one tool."""

    type: Literal["function"]
    function: NamedFunction


Tools = Annotated[list[Tool], Field(min_length=1, max_length=128)]

ToolChoice = Literal["none", "auto", "required"] | NamedTool


@dataclass(frozen=True)
class ToolUse:
    """How a reply may call tools; `guide` holds it to a call where one is required."""

    form: CallFormat
    names: frozenset[str]
    several: bool
    guide: Guide | None

    def reader(self) -> CallReader:
        """What finds the calls in one reply."""
        return CallReader(self.form, self.names, several=self.several)


def offered(tools: Sequence[Tool] | None) -> tuple[dict[str, Any], ...]:
    """The tools as chat templates take them."""
    return tuple(tool.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for tool in tools or ())


def tool_use(
    language: Language, tools: Sequence[Tool] | None, choice: ToolChoice | None, *, parallel: bool | None
) -> ToolUse | None:
    """What the reply may do with `tools`; None where it may not call any. Raises RequestError."""
    if not tools:
        if choice not in (None, "none"):
            raise RequestError("tool_choice: needs tools", code="invalid_value", param="tool_choice")
        return None
    if not language.shows_tools:
        raise RequestError(
            "tools: this model's chat template has no tools; leave them out, or describe them in a system message",
            code="unsupported_value",
            param="tools",
        )
    schemas = {tool.function.name: tool.function.parameters or NO_ARGUMENTS for tool in tools}
    named = choice.function.name if isinstance(choice, NamedTool) else None
    if named is not None and named not in schemas:
        raise RequestError(f"tool_choice: {named} is none of the tools", code="invalid_value", param="tool_choice")
    if choice == "none":
        return None
    form = language.call_format
    if form is None:
        raise RequestError(
            "tools: this model's chat template does not write calls as a name and then JSON, so they are not read; "
            'send tool_choice: "none" to have them as text',
            code="unsupported_value",
            param="tools",
        )
    several = parallel is not False and named is None
    guide = None
    if choice == "required" or named is not None:
        wanted: Mapping[str, Mapping[str, Any]] = schemas if named is None else {named: schemas[named]}
        guide = language.guide(call_grammar(form, wanted, language.call_marks, several=several), param="tools")
    return ToolUse(form, frozenset(schemas), several, guide)


def check_results(conversation: Conversation) -> None:
    """Refuse results of calls that were never made, as OpenAI does. Raises RequestError."""
    made: set[str | None] = set()
    for number, message in enumerate(conversation.messages):
        made |= {call.id for call in message.tool_calls}
        if message.role == "tool" and (message.tool_call_id is None or message.tool_call_id not in made):
            raise RequestError(
                f"messages[{number}].tool_call_id: must name a call in the tool_calls of an earlier message",
                code="invalid_value",
                param=f"messages[{number}].tool_call_id",
            )


def check_written(renderer: "Renderer", conversation: Conversation) -> None:
    """Refuse a conversation of whose calls and results the chat template leaves some out. Raises RequestError."""
    marked = [_marked(message, f"{SENTINEL}{number}.") for number, message in enumerate(conversation.messages)]
    if marked == list(conversation.messages):
        return
    text = renderer.prompt_text(msgspec.structs.replace(conversation, messages=tuple(marked)))
    for number, message in enumerate(marked):
        if message != conversation.messages[number] and f"{SENTINEL}{number}." not in text:
            raise RequestError(
                f"messages[{number}]: this model's chat template leaves out calls of tools or their results",
                code="unsupported_value",
                param=f"messages[{number}]",
            )


def _marked(message: Message, mark: str) -> Message:
    """The message with `mark` for what it calls or what a tool said."""
    if message.role == "tool":
        return msgspec.structs.replace(message, content=mark)
    calls = tuple(msgspec.structs.replace(call, name=mark) for call in message.tool_calls)
    return msgspec.structs.replace(message, tool_calls=calls)


def deltas(parts: Sequence[str | CallPart]) -> list[dict[str, Any]]:
    """What a reader has found, as the deltas of a streamed message."""
    return [
        {"content": part}
        if isinstance(part, str)
        else {
            "tool_calls": [
                {"index": part.index, "function": {"arguments": part.arguments}}
                if part.name is None
                else {
                    "index": part.index,
                    "id": f"call_{secrets.token_hex(12)}",
                    "type": "function",
                    "function": {"name": part.name, "arguments": part.arguments},
                }
            ]
        }
        for part in parts
    ]


def message(reader: CallReader, text: str) -> dict[str, Any]:
    """The whole reply `text` as content and calls."""
    content = ""
    calls: list[dict[str, Any]] = []
    for delta in deltas(reader.feed(text, last=True)):
        content += delta.get("content", "")
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                calls.append({"id": call["id"], "type": "function", "function": call["function"]})
            else:
                calls[-1]["function"]["arguments"] += call["function"]["arguments"]
    return {"content": content or None} | ({"tool_calls": calls} if calls else {})
