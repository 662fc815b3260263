"""The one row type between file formats and tokenizers.

Every format is read into `Conversation` and written from it; nothing past this folder knows a file format.
The structs are frozen msgspec Structs because there are millions of them: creation costs under a microsecond
and equality is structural, which is what the round-trip properties rely on.
"""

from typing import Any, Literal, TypeAlias

from msgspec import Struct

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]


class ToolCall(Struct, frozen=True, gc=False):
    """One call of a tool by the assistant; `arguments` is JSON text, as on OpenAI's wire."""

    name: str
    arguments: str
    id: str | None = None


class Message(Struct, frozen=True, gc=False):
    """One turn. `weight` 0 keeps an assistant turn as context without training on it; None means the default, 1.

    `extra` holds the turn's fields that no format claims (a time stamp, an id), which only files need.
    """

    role: Role
    content: str = ""
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    weight: Literal[0, 1] | None = None
    extra: dict[str, Any] | None = None


class Source(Struct, frozen=True, gc=False):
    """Where a row came from; `line` is 1-based (for a Parquet file, the row number)."""

    file: str
    line: int
    format: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Conversation(Struct, frozen=True, gc=False):
    """One row of a data set, whatever format it was read from.

    - `messages`: the whole conversation; for a preference row the prompt followed by the *chosen* reply.
    - `completion_start`: index of the first message that is trained on and judged (prompt-completion and
      preference rows); None means every assistant message that its weight does not exclude.
    - `rejected`: the losing alternative to `messages[completion_start:]`; empty unless a preference row.
    - `text`: a plain-text row (continued pretraining); `messages` is then empty and every token is trained on.
    - `desirable`: a single reply judged good or bad (KTO's rows); None when not judged.
    - `tools`: the tool schemas offered to the assistant, in OpenAI's form.
    - `label`: the class of a classification row where the file names it; `metadata`: the columns no format claims.
    """

    messages: tuple[Message, ...] = ()
    completion_start: int | None = None
    rejected: tuple[Message, ...] = ()
    text: str | None = None
    desirable: bool | None = None
    tools: tuple[dict[str, Any], ...] = ()
    label: str | None = None
    metadata: dict[str, Any] = {}
    source: Source | None = None

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages before the completion: up to `completion_start`, else before the last assistant turn."""
        if self.completion_start is not None:
            return self.messages[: self.completion_start]
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].role == "assistant":
                return self.messages[:index]
        return self.messages

    @property
    def completion(self) -> tuple[Message, ...]:
        """The messages after `prompt`: what the model should say."""
        return self.messages[len(self.prompt) :]


class BrokenRow(Struct, frozen=True):
    """A row that could not be read: where it is (1-based line and column), the field's path, and what is wrong.

    `number` is the row's in the file, from 1: a line may hold many rows, and a row may have many mistakes.
    `path` is JSONPath-like (`$.messages[2].role`), `$` when the line is not JSON at all.
    """

    file: str
    line: int
    column: int
    path: str
    found: str
    expected: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.path}: found {self.found}; expected {self.expected}"
