"""Are the outputs what a person would want said? Leftovers of scraping, of other models and of broken pipelines.

Precision comes first: what a rule finds in a large share of the rows is what the set is meant to teach (HTML,
translation) and is not reported, and endings, JSON and lengths are judged against what most outputs of the set do.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from tunesmith.quality import blemishes
from tunesmith.quality.check import SHOWN_ROWS, Flag, Flags, Profile, Row, clean_command, counted, distribution, quote
from tunesmith.quality.language import compared
from tunesmith.quality.report import Finding
from tunesmith.quality.task import json_value, unfenced

FAIL_SHARE = 0.05
"""From this share of blemished rows on, the set teaches the blemish."""

STYLE_SHARE = 0.3
"""From this share on, it is what the set is meant to teach."""

DANGLING = re.compile(
    r"\b(?:the|a|an|of|and|or|to|in|with|for|but|that|which|is|are|was|by|from|as|on|at|because|if|when)$",
    re.IGNORECASE,
)
OPEN_END = re.compile(r"[\w,;(\u2013-]")
LIST_ITEM = re.compile(r"\s*(?:[-*\u2022#>|]|\d+[.)]\s)")
CUT_CHARACTERS = 40
"""Shorter outputs, and last lines, are phrases and signatures, which end without a full stop."""

CLOSED_SHARE = 0.8
"""Where fewer of the long outputs end a sentence, ending without one is the style."""

JSON_SHARE = 0.6
"""From this share of outputs that are JSON on, the others should be."""

USUAL_KEYS_SHARE = 0.95
"""From this share of objects with the same keys on, the others should have them."""

OUTLIER_FACTOR = 4.0
OUTLIER_DEVIATIONS = 6.0
OUTLIER_MINIMUM_ROWS = 50
"""A length is an outlier when its logarithm is 6 robust deviations off the median, and it is also 4 times beyond
the 2nd or 98th percentile: lengths have long tails, and being in the tail proves nothing."""

Lengths: TypeAlias = NDArray[np.int32]

RULES: dict[str, Callable[[Row, str], str | None]] = {
    "markup": blemishes.markup,
    "mojibake": blemishes.mojibake,
    "refusals": blemishes.refusal,
    "echo": blemishes.echo,
}

DOUBTS_HANDED_OVER = 0.05
"""Up to this share of rows whose language is in doubt, one process judges them for all: a worker's loading the
model costs more."""

MOST_DOUBTS = 10_000
"""Doubts held at once, about half a kilobyte each."""


class Told(Struct, frozen=True):
    """How a kind is told: the rest of the sentence "12 outputs …", the mend, the flag of `data clean` that does it."""

    found: str
    mend: str
    flag: str | None = None


KINDS = {
    "markup": Told("carry leftover markup or escapes", "strip tags, entities, template tokens and escapes"),
    "mojibake": Told("carry mojibake, text decoded with the wrong encoding", "decode it again", "--fix-mojibake"),
    "refusals": Told('hold a refusal or "as an AI" boilerplate', "drop them or write real answers", "--drop-refusals"),
    "echo": Told("repeat the prompt", "keep only the answer"),
    "language": Told("answer in another language than they are asked in", "translate them or drop the rows"),
    "cut off": Told("end in mid-sentence, as if cut off", "write them to their end, or drop the rows"),
    "JSON": Told("are not valid JSON where most are", "mend the syntax or drop the rows"),
    "keys": Told("have other JSON keys than the others", "give every object the same keys"),
    "length": Told("are far longer or shorter than the others", "read them; most are mistakes of a pipeline"),
}


class Doubt(Struct, frozen=True):
    """A row whose answer may be in another language than its question: only a model can say."""

    flag: Flag
    """The output, quoted."""
    asked: str
    said: str
    """As much as tells their languages."""


class OutputFacts(Struct):
    """What one batch adds. `prose` and `closed` count the long outputs in prose and those that end a sentence."""

    lengths: Lengths
    flags: defaultdict[str, Flags] = field(default_factory=lambda: defaultdict(Flags))
    keys: defaultdict[tuple[str, ...], Flags] = field(default_factory=lambda: defaultdict(Flags))
    prose: int = 0
    closed: int = 0
    json: int = 0
    doubts: list[Doubt] = field(default_factory=list)


class OutputsCheck:
    """A `RowCheck`: blemished outputs."""

    def __init__(self) -> None:
        self._flags = {kind: Flags() for kind in KINDS}
        self._keys: defaultdict[tuple[str, ...], Flags] = defaultdict(Flags)
        self._lengths: list[Lengths] = []
        self._prose = self._closed = self._json = 0
        self._doubts: list[Doubt] = []

    def observe(self, rows: Sequence[Row]) -> OutputFacts:
        """Look at each output of a batch."""
        outputs = [row.output.strip() for row in rows]
        facts = OutputFacts(np.array(list(map(len, outputs)), np.int32))
        for row, output in zip(rows, outputs, strict=True):
            if not output:
                continue
            for kind, rule in RULES.items():
                if (note := rule(row, output)) is not None:
                    facts.flags[kind].flag(row, note)
            if not _observe_json(facts, row, output):
                _observe_ending(facts, row, output)
            if blemishes.may_differ_in_language(row.input, output):
                flag = Flag(row.index, row.where, quote(output))
                facts.doubts.append(Doubt(flag, compared(row.input), compared(output)))
        if len(facts.doubts) > DOUBTS_HANDED_OVER * len(rows):
            facts.flags["language"], facts.doubts = _in_other_languages(facts.doubts), []
        return facts

    def add(self, observed: OutputFacts) -> None:
        """Gather one batch."""
        for kind, flags in observed.flags.items():
            self._flags[kind].extend(flags)
        for keys, flags in observed.keys.items():
            self._keys[keys].extend(flags)
        self._lengths.append(observed.lengths)
        self._prose += observed.prose
        self._closed += observed.closed
        self._json += observed.json
        self._doubts += observed.doubts
        if len(self._doubts) >= MOST_DOUBTS:
            self._judge_doubts()

    def findings(self, profile: Profile) -> tuple[Finding, ...]:
        """One finding per kind of blemish; a single pass when there is none."""
        rows = len(profile.rows)
        lengths = np.concatenate([np.empty(0, np.int32), *self._lengths])
        self._judge_doubts()
        found = self._flags | {"length": _outliers(lengths, profile), "keys": self._odd_keys()}
        if self._closed < CLOSED_SHARE * self._prose:
            del found["cut off"]
        if self._json < JSON_SHARE * rows:
            del found["JSON"]
        told = [_tell(kind, flags, profile) for kind, flags in found.items() if flags.count > 0]
        told = [finding for finding in told if finding.count <= max(STYLE_SHARE * rows, 1)]
        facts = {"characters": distribution(lengths)}
        return tuple(told) or (Finding("outputs", "pass", f"no blemish in {rows:,} outputs", facts=facts),)

    def _judge_doubts(self) -> None:
        self._flags["language"].extend(_in_other_languages(self._doubts))
        self._doubts = []

    def _odd_keys(self) -> Flags:
        odd = Flags()
        usual = max(self._keys, key=lambda keys: self._keys[keys].count, default=())
        objects = sum(flags.count for flags in self._keys.values())
        if usual and self._keys[usual].count >= USUAL_KEYS_SHARE * objects:
            for keys, flags in self._keys.items():
                if keys != usual:
                    odd.extend(flags, note=f"differs in {', '.join(sorted(set(usual) ^ set(keys)))}")
        return odd


def _observe_json(facts: OutputFacts, row: Row, output: str) -> bool:
    """Whether the output is meant as JSON; if it is, its keys are counted or its syntax flagged."""
    text = unfenced(output)
    meant = text[0] in "{[" if text else False
    value = json_value(text) if meant else None
    if value is None:
        facts.flags["JSON"].flag(row, lambda: f"{'does not parse' if meant else 'no JSON'}: {quote(output, 80)}")
        return meant and not text.startswith("[")
    facts.json += 1
    if isinstance(value, dict):
        facts.keys[tuple(sorted(value))].flag(row)
    return True


def _observe_ending(facts: OutputFacts, row: Row, output: str) -> None:
    """Count how the output ends, and flag it where it ends in mid-sentence."""
    last = output[output.rfind("\n") + 1 :]
    if len(output) < CUT_CHARACTERS or LIST_ITEM.match(last) or "://" in last or _calls_tool(row):
        return
    facts.prose += 1
    if "`" in output and output.count("```") % 2:
        facts.flags["cut off"].flag(row, "a code fence is opened and never closed")
    elif not OPEN_END.match(output[-1]):
        facts.closed += 1
    elif len(last) >= CUT_CHARACTERS or DANGLING.search(last[-20:]):
        facts.flags["cut off"].flag(row, f"ends with {quote(output[-60:])!r}")


def _calls_tool(row: Row) -> bool:
    messages = row.conversation.messages
    return bool(messages and messages[-1].tool_calls)


def _in_other_languages(doubts: Sequence[Doubt]) -> Flags:
    """The rows that do answer in another language."""
    flags = Flags()
    for doubt in doubts:
        if (note := blemishes.other_language(doubt.asked, doubt.said)) is not None:
            flags.add(msgspec.structs.replace(doubt.flag, note=f"{note}: {doubt.flag.note}"))
    return flags


def _outliers(lengths: Lengths, profile: Profile) -> Flags:
    """Rows whose output's length is far from the others'."""
    flags = Flags()
    filled = lengths[lengths > 0]
    if len(filled) < OUTLIER_MINIMUM_ROWS:
        return flags
    logs = np.log(filled)
    median = float(np.median(logs))
    # 1.4826 makes the median absolute deviation estimate the standard deviation of a normal distribution; lengths
    # that hardly vary (labels) still get some slack.
    deviation = max(1.4826 * float(np.median(np.abs(logs - median))), 0.25)
    low, high = np.percentile(filled, [2, 98])
    reach = np.exp(OUTLIER_DEVIATIONS * deviation)
    shortest = min(np.exp(median) / reach, low / OUTLIER_FACTOR)
    longest = max(np.exp(median) * reach, high * OUTLIER_FACTOR)
    odd = np.flatnonzero(((lengths > 0) & (lengths < shortest)) | (lengths > longest))
    usual = round(float(np.exp(median)))
    flags.count = len(odd)
    flags.shown = [
        Flag(index, profile.rows.where(index), f"{lengths[index]:,} characters, where {usual:,} are usual")
        for index in odd[:SHOWN_ROWS].tolist()
    ]
    return flags


def _tell(kind: str, flags: Flags, profile: Profile) -> Finding:
    told, rows = KINDS[kind], len(profile.rows)
    return Finding(
        f"outputs: {kind}",
        "fail" if flags.count >= FAIL_SHARE * rows else "warn",
        counted(flags.count, told.found, noun="output", whole=rows),
        count=flags.count,
        rows=flags.notes(),
        mend=told.mend,
        command=clean_command(profile.files, told.flag) if told.flag else None,
    )
