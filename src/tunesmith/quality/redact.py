"""Replace personal data by placeholders that keep who is who: `<EMAIL_1>` is the same address all through a row.

Numbering starts anew in each row, so nothing links rows and no table of secrets has to be kept. A second redaction
changes nothing: each text is redacted until nothing is found, and placeholders are never taken for data.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from tunesmith.dataset.conversation import Conversation, Message, ToolCall
from tunesmith.quality.pii.scan import PiiSpan, find_pii

Finder: TypeAlias = Callable[[str], tuple[PiiSpan, ...]]

PLACEHOLDER = re.compile(r"<([A-Z_]+)_(\d+)>")
_SEPARATORS = re.compile(r"[\s().\-/]+")


class Redaction(Struct, frozen=True):
    """A row without its personal data, and how many times each kind was replaced; the row itself if there was none."""

    row: Conversation
    found: dict[str, int]

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self.found.items()))


def redact(row: Conversation, find: Finder = find_pii) -> Redaction:
    """Replace all personal data that `find` sees in the row's messages, tool calls, text and metadata."""
    redactor = _Redactor(row, find)
    messages, rejected = redactor.messages(row.messages), redactor.messages(row.rejected)
    text = None if row.text is None else redactor.text(row.text)
    metadata = redactor.value(row.metadata)
    if not redactor.found:
        return Redaction(row, {})
    redacted = msgspec.structs.replace(row, messages=messages, rejected=rejected, text=text, metadata=metadata)
    return Redaction(redacted, redactor.found)


def redact_text(text: str) -> str:
    """`text` alone, redacted: for logs and messages, which must not carry on what the data no longer holds."""
    return _Redactor(Conversation(), find_pii).text(text)


class _Redactor:
    """The placeholders of one row and the walk over its texts."""

    def __init__(self, row: Conversation, find: Finder) -> None:
        self._row = row
        self._find = find
        self._placeholders: dict[tuple[str, str], str] = {}
        self._used: Counter[str] | None = None
        self.found: dict[str, int] = {}

    def messages(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple([self._message(message) for message in messages])  # a list is filled faster than a generator

    def text(self, text: str) -> str:
        # What a placeholder replaces no longer stands between a word and a number: look again until nothing is left.
        while spans := self._find(text):
            pieces, end = [], 0
            for span in spans:
                pieces += [text[end : span.start], self._placeholder(span.kind, text[span.start : span.end])]
                end = span.end
            text = "".join(pieces) + text[end:]
        return text

    def value(self, value: Any, key: str = "") -> Any:
        """A JSON value; a number that is personal data becomes its placeholder, and a key is context for its value."""
        if isinstance(value, dict):
            return {name: self.value(item, name) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.value(item, key) for item in value)
        if isinstance(value, bool) or not isinstance(value, str | int):
            return value
        text = str(value)
        context = f"{key}: "
        redacted = self.text(context + text)
        redacted = redacted.removeprefix(context) if redacted.startswith(context) else self.text(text)
        return value if redacted == text else redacted

    def _message(self, message: Message) -> Message:
        content = self.text(message.content)
        if message.thinking is None and not message.tool_calls and message.extra is None:
            return message if content is message.content else msgspec.structs.replace(message, content=content)
        thinking = None if message.thinking is None else self.text(message.thinking)
        calls = tuple(self._call(call) for call in message.tool_calls)
        extra = None if message.extra is None else self.value(message.extra)
        if (content, thinking, calls, extra) == (message.content, message.thinking, message.tool_calls, message.extra):
            return message
        return msgspec.structs.replace(message, content=content, thinking=thinking, tool_calls=calls, extra=extra)

    def _call(self, call: ToolCall) -> ToolCall:
        try:
            arguments = msgspec.json.decode(call.arguments)
            redacted = self.value(arguments)
        except (ValueError, RecursionError):  # no JSON, or nested too deeply to walk
            return msgspec.structs.replace(call, arguments=self.text(call.arguments))
        if redacted == arguments:
            return call
        return msgspec.structs.replace(call, arguments=json.dumps(redacted, ensure_ascii=False))

    def _placeholder(self, kind: str, value: str) -> str:
        self.found[kind] = self.found.get(kind, 0) + 1
        identity = (kind, _SEPARATORS.sub("", value).casefold())
        if identity not in self._placeholders:
            if self._used is None:
                self._used = _highest_placeholders(self._row)
            self._used[kind] += 1
            self._placeholders[identity] = f"<{kind}_{self._used[kind]}>"
        return self._placeholders[identity]


def _highest_placeholders(row: Conversation) -> Counter[str]:
    """The highest number of each kind already in the row, so that a new person never gets an old one's placeholder."""
    highest: Counter[str] = Counter()
    for kind, number in PLACEHOLDER.findall(repr(row)):
        highest[kind] = max(highest[kind], int(number))
    return highest
