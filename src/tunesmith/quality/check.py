"""The contract of a check, and the view of the data that checks share.

There are two kinds. A `RowCheck` looks at each row: `observe` runs in worker processes on a batch and returns compact
facts, `add` gathers them in row order in the parent, `finding` judges at the end; so rows are parsed once, all cores
work and memory holds facts, not rows. A `ProfileCheck` is a function that judges the `Profile` left by that pass (the
row count, the task, every row's input and output text, lazily read back from a spill file).
To add a check: write one file, and list it in `checklist.py`.
"""

import math
import shlex
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Any, Protocol, TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tunesmith.dataset.conversation import BrokenRow, Conversation, Message
from tunesmith.dataset.neardup import DuplicatePairs, duplicate_pairs
from tunesmith.dataset.sketch import Sketches, sketch_rows
from tunesmith.quality.report import Finding, RowNote, Status

SHOWN_ROWS = 50
"""Offending rows a finding carries; its `count` is always the whole number."""

NOTE_CHARACTERS = 160
"""A note quotes at most this much of a row."""


class Row(Struct, frozen=True, gc=False):
    """One readable row as a `RowCheck` sees it.

    `index` counts readable rows over all files from 0; `input` is the text of the prompt's turns without the system
    message, `output` the text to be learnt (for a plain-text row the text itself, its `input` empty; for a
    preference row the chosen reply).
    """

    index: int
    conversation: Conversation
    input: str
    output: str

    @property
    def where(self) -> str:
        """`file:line` of the row."""
        return str(self.conversation.source)


class Flag(Struct, frozen=True):
    """One offending row on its way from a worker to the finding."""

    index: int
    where: str
    note: str


Observed = TypeVar("Observed")


class Observer(Protocol[Observed]):
    """Sees every row once. Instances are sent to the workers before the pass: options in, no open files."""

    def observe(self, rows: Sequence[Row]) -> Observed:
        """Facts about a batch of rows; runs in a worker, must not change the observer and should return little."""
        ...

    def add(self, observed: Observed) -> None:
        """Gather one batch's facts; called in row order in the parent."""
        ...


class RowCheck(Observer[Observed], Protocol[Observed]):
    """A check of single rows."""

    def findings(self, profile: "Profile") -> tuple[Finding, ...]:
        """The judgement once every row was seen: usually one finding, none where the check does not apply."""
        ...


@dataclass(frozen=True, eq=False)
class RowTexts:
    """Every row's texts and place. The sequences are lazy: indexing reads the text back from a spill file.

    `contexts` hashes what besides the input decides the right output (system prompt, offered tools), so two equal
    inputs in different contexts are different questions. `labels` is the class a file names, "" where it names none.
    """

    inputs: Sequence[str]
    outputs: Sequence[str]
    contexts: NDArray[np.uint32]  # (rows,)
    labels: Sequence[str]
    files: tuple[str, ...]
    file_of: NDArray[np.int32]  # (rows,) position in `files`
    lines: NDArray[np.uint32]  # (rows,) 1-based

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, index: int) -> str:
        """`file:line` of row `index`."""
        return f"{self.files[self.file_of[index]]}:{self.lines[index]}"

    @cached_property
    def sketches(self) -> tuple[Sketches, Sketches]:
        """Of the inputs, and of the rows as wholes: read and sketched once for all checks that compare rows."""
        return sketch_rows(self.inputs, self.outputs, self.contexts)

    @cached_property
    def near_duplicate_inputs(self) -> DuplicatePairs:
        """Pairs of rows whose inputs are the same or nearly; computed once for all checks that ask."""
        return duplicate_pairs(self.sketches[0])


class ClassCount(Struct, frozen=True):
    """A class of a classification set and its rows."""

    name: str
    rows: int


@dataclass(frozen=True)
class Task:
    """What the rows teach: `classification`, `extraction`, `style`, `domain` or `code`, and how we know.

    `classes` are the labels of a classification set, the most frequent first.
    """

    name: str
    reason: str
    classes: tuple[ClassCount, ...] = ()


@dataclass(frozen=True, eq=False)
class Profile:
    """What the pass left for the judgements.

    `broken` holds the first broken rows, `broken_count` says how many there are; `evaluation` the rows of `--eval`.
    """

    files: tuple[str, ...]
    rows: RowTexts
    task: Task
    characters: int = 0
    broken: tuple[BrokenRow, ...] = ()
    broken_count: int = 0
    evaluation: RowTexts | None = None


ProfileCheck = Callable[[Profile], tuple[Finding, ...]]


@dataclass
class Flags:
    """Offending rows as a `RowCheck` gathers them from its batches: all counted, the first `SHOWN_ROWS` kept."""

    count: int = 0
    shown: list[Flag] = field(default_factory=list)

    def flag(self, row: Row, note: str | Callable[[], str] = "") -> None:
        """Count `row`; its note is made only if it will be shown, for a rule may flag every row there is."""
        self.count += 1
        if len(self.shown) < SHOWN_ROWS:
            self.shown.append(Flag(row.index, row.where, note if isinstance(note, str) else note()))

    def add(self, flag: Flag) -> None:
        """Count the row of `flag`."""
        self.count += 1
        if len(self.shown) < SHOWN_ROWS:
            self.shown.append(flag)

    def extend(self, flags: "Flags", note: str | None = None) -> None:
        """Gather flags of other rows, before or behind these, with `note` in place of theirs if given."""
        self.count += flags.count
        if flags.shown:
            more = flags.shown if note is None else [Flag(flag.index, flag.where, note) for flag in flags.shown]
            self.shown = sorted([*self.shown, *more], key=lambda flag: flag.index)[:SHOWN_ROWS]

    def notes(self) -> tuple[RowNote, ...]:
        """The kept flags as a finding shows them."""
        return tuple(RowNote(flag.where, flag.note) for flag in self.shown)


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of `statuses`; pass when there are none."""
    order: tuple[Status, ...] = ("pass", "warn", "fail")
    return max(statuses, key=order.index, default="pass")


def share(part: int, whole: int) -> str:
    """`part` of `whole` as a percentage people read: "0.4%", "12%"."""
    percent = 100 * part / max(whole, 1)
    return f"{percent:.1f}%" if 0 < percent < 10 else f"{percent:.0f}%"


SINGULAR = {"have": "has", "are": "is", "carry": "carries", "copy": "copies"}


def counted(count: int, what: str, *, noun: str = "row", whole: int | None = None) -> str:
    """What a finding says: "12 rows (4.0%) have …" or "1 row (0.3%) has …" for `what` "have …"; of `whole`."""
    verb, _, rest = what.partition(" ")
    affected = "" if whole is None else f" ({share(count, whole)})"
    if count == 1:
        return f"1 {noun}{affected} {SINGULAR.get(verb, f'{verb}s')} {rest}"
    return f"{count:,} {noun}s{affected} {what}"


def distribution(array: NDArray[Any], bars: int = 10) -> dict[str, int]:
    """How many values (lengths, counts) fall into each of at most `bars` ranges of round numbers, for a plot."""
    if not len(array):
        return {}
    step = float(10 ** math.floor(math.log10(max(array.max() / bars, 1))))
    step *= next(factor for factor in (1, 2, 5, 10) if array.max() / (factor * step) < bars)
    counts = np.bincount((array // step).astype(np.int64))
    return {f"{index * step:,.0f} to {(index + 1) * step:,.0f}": int(count) for index, count in enumerate(counts)}


def quote(text: str, characters: int = NOTE_CHARACTERS) -> str:
    """`text` on one line, cut to `characters`."""
    line = " ".join(text[: 4 * characters].split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


def shell_quote(files: Iterable[str]) -> str:
    """File names as they are typed on a command line."""
    return shlex.join(files)


def clean_command(files: Iterable[str], *flags: str) -> str:
    """The command lines that mend `files` into new ones: `tunesmith data clean a.jsonl a.clean.jsonl FLAGS`."""
    return " && ".join(
        shlex.join(["tunesmith", "data", "clean", file, str(PurePath(file).with_stem(f"{PurePath(file).stem}.clean"))])
        + "".join(f" {flag}" for flag in flags)
        for file in files
    )


def row_texts(conversation: Conversation) -> tuple[str, str]:
    """The `input` and `output` of a `Row`."""
    if conversation.text is not None:
        return "", conversation.text
    if conversation.completion_start is None and len(conversation.messages) == 2:  # nearly every row there is
        asked, said = conversation.messages
        if asked.role == "user" and said.role == "assistant":
            return message_text(asked), message_text(said)
    prompt = conversation.prompt
    completion = conversation.messages[len(prompt) :]
    turns = [message for message in prompt if message.role not in ("system", "developer")]
    return _text(turns), _text(completion)


def output_text(conversation: Conversation) -> str:
    """The `output` of a `Row`."""
    return row_texts(conversation)[1]


def _text(messages: Sequence[Message]) -> str:
    if len(messages) == 1:
        return message_text(messages[0])
    return "\n".join(message_text(message) for message in messages)


def message_text(message: Message) -> str:
    """A message's content and its tool calls."""
    if not message.tool_calls:
        return message.content
    calls = [f"{call.name}({call.arguments})" for call in message.tool_calls]
    return "\n".join([message.content, *calls] if message.content else calls)


def context_hash(conversation: Conversation) -> int:
    """A 32-bit hash of what else decides the right output: system prompt, tools, the rejected reply; 0 without them."""
    context = [message.content for message in conversation.messages if message.role in ("system", "developer")]
    if context:  # far from all rows have any, and only those of the prompt count
        context = [message.content for message in conversation.prompt if message.role in ("system", "developer")]
    context += [repr(tool) for tool in conversation.tools]
    # One prompt may be compared in many preference rows; each pair of replies is a row of its own.
    context += [message_text(message) for message in conversation.rejected]
    return zlib.crc32("\0".join(context).encode("utf-8", "surrogatepass")) if context else 0
