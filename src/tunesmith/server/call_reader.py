"""Finds the calls of tools in a reply as it comes, by the format in which the model's chat template writes them.

Text is passed on as soon as it cannot be the beginning of a call, arguments as they are said. What names no tool that
was offered is text: nobody could answer such a call.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from tunesmith.dataset.call_format import CallFormat

_NAME = re.compile(r"[\w.-]+")

_MORE = -1

_OPEN_SHUT = {"{": 1, "[": 1, "}": -1, "]": -1}


@dataclass(frozen=True)
class CallPart:
    """More of the call at `index` of a reply: its `name` once, at its beginning, then its arguments piece by piece."""

    index: int
    name: str | None
    arguments: str


@dataclass(frozen=True)
class _Head:
    """A call's beginning in the text at hand; `name` is None where more text must come to tell."""

    start: int
    end: int
    name: str | None


class CallReader:
    """Reads one reply. With `several` false, what follows the first call is dropped."""

    def __init__(self, form: CallFormat, tools: Collection[str], *, several: bool = True) -> None:
        self._before, self._between = _bare(form.before), _bare(form.between)
        self._after, self._again = _bare(form.after), None if form.again is None else _bare(form.again)
        self._tools = tools
        self._several = several
        self._text = ""  # not passed on yet
        self._within: Literal["text", "arguments", "end"] = "text"
        self._depth = 0
        self._quoted = self._escaped = False
        self.calls = 0

    def feed(self, text: str, *, last: bool = False) -> list[str | CallPart]:
        """What is certain after more `text`: content and parts of calls, in their order."""
        self._text += text
        found: list[str | CallPart] = []
        while self._text:
            before = (self._within, self._text)
            match self._within:
                case "text":
                    self._read_text(found, last=last)
                case "arguments":
                    self._read_arguments(found)
                case "end":
                    self._read_end(found, last=last)
            if (self._within, self._text) == before:
                break
        return found

    def _read_text(self, found: list[str | CallPart], *, last: bool) -> None:
        if self.calls and not self._several:
            self._text = ""
            return
        head = self._find_head()
        if last and head is not None and head.name is None:
            head = None
        said = self._text if head is None else self._text[: head.start]
        if head is not None or not last or self.calls:
            said = said.rstrip()  # whitespace before a call belongs to it; before more text it is passed on with that
        if said:
            found.append(said)
        if head is not None and head.name is not None:
            self._begin(head, found)
        else:
            self._text = "" if last else self._text[len(said) :]

    def _find_head(self) -> _Head | None:
        starts = (start for start, character in enumerate(self._text) if character == self._before[0])
        heads = (self._head(start, self._before) for start in starts)
        return next((head for head in heads if head is not None), None)

    def _head(self, start: int, before: str) -> _Head | None:
        """The head of a call that begins with `before` at `start`; None where there is none."""
        unsure = _Head(start, len(self._text), None)
        place = _match(self._text, start, before)
        if place is None or place == _MORE:
            return None if place is None else unsure
        name = _NAME.match(self._text, place)
        if place == len(self._text) or (name is not None and name.end() == len(self._text)):
            return unsure
        if name is None or name[0] not in self._tools:
            return None
        end = _match(self._text, name.end(), self._between + "{")
        if end is None or end == _MORE:
            return None if end is None else unsure
        return _Head(start, end - 1, name[0])

    def _begin(self, head: _Head, found: list[str | CallPart]) -> None:
        found.append(CallPart(self.calls, head.name, ""))
        self.calls += 1
        self._text = self._text[head.end :]
        self._within, self._depth = "arguments", 0

    def _read_arguments(self, found: list[str | CallPart]) -> None:
        for place, character in enumerate(self._text):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped, self._quoted = character == "\\", character != '"'
            else:
                self._quoted = character == '"'
                self._depth += _OPEN_SHUT.get(character, 0)
                if not self._depth:
                    found.append(CallPart(self.calls - 1, None, self._text[: place + 1]))
                    self._text, self._within = self._text[place + 1 :], "end"
                    return
        found.append(CallPart(self.calls - 1, None, self._text))
        self._text = ""

    def _read_end(self, found: list[str | CallPart], *, last: bool) -> None:
        """After the arguments: another call, or the end of this one."""
        if self._again is not None and self._several:
            head = self._head(0, self._again)
            if head is not None and head.name is not None:
                self._begin(head, found)
                return
            if head is not None and not last:
                return
        end = _match(self._text, 0, self._after)
        if end == _MORE and not last:
            return
        self._text = "" if end == _MORE else self._text[end or 0 :]
        self._within = "text"


def _bare(text: str) -> str:
    return "".join(text.split())


def _match(text: str, start: int, wanted: str) -> int | None:
    """Where `wanted`, which has no whitespace, ends in `text` from `start`, whitespace in between left out.

    `_MORE` where `text` ends before `wanted` does; None where it is something else.
    """
    place = start
    for character in wanted:
        while place < len(text) and text[place].isspace():
            place += 1
        if place == len(text):
            return _MORE
        if text[place] != character:
            return None
        place += 1
    return place
