"""Which replies the report shows: of every outcome the first few rows, the worse ones first, so none is hand-picked."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.evaluation.result import Sample

LAID_OPEN = 2
"""Samples of each outcome that are laid open; the rest are one click away."""

OUTCOMES = {
    "worse": "Worse than the base's",
    "better": "Better than the base's",
    "unchanged": "No better, and not the reference",
    "right": "The reference, from both",
}
"""Outcome of a row → what the tuned model's reply is, in the order in which they are shown."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a reply; `differs` says that the reference does not have it there."""

    text: str
    differs: bool


@dataclass(frozen=True)
class ShownSample:
    """A sample with its replies cut into pieces, and whether each is the reference, but for outer whitespace."""

    sample: Sample
    base: tuple[Piece, ...]
    tuned: tuple[Piece, ...]
    base_matches: bool
    tuned_matches: bool

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`: by the headline metric's score of the row, then by whether the reply is the reference."""
        base = (self.sample.base_score, self.base_matches)
        tuned = (self.sample.tuned_score, self.tuned_matches)
        if base == tuned:
            return "right" if self.tuned_matches else "unchanged"
        return "better" if tuned > base else "worse"


@dataclass(frozen=True)
class Outcome:
    """The rows with one outcome, in the order of the data: those laid open, and the others."""

    name: str
    title: str
    shown: tuple[ShownSample, ...]
    others: tuple[ShownSample, ...]

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.shown) + len(self.others)


def outcomes(samples: Sequence[Sample]) -> list[Outcome]:
    """All samples by outcome, one without rows too: that nothing got worse is worth a line. None without samples."""
    found: dict[str, list[ShownSample]] = {name: [] for name in OUTCOMES}
    for sample in samples:
        shown = _shown(sample)
        found[shown.outcome].append(shown)
    if not samples:
        return []
    return [
        Outcome(name, OUTCOMES[name], tuple(rows[:LAID_OPEN]), tuple(rows[LAID_OPEN:])) for name, rows in found.items()
    ]


def difference(reply: str, reference: str) -> tuple[Piece, ...]:
    """`reply` cut into what it shares with `reference`, word by word, and what it does not."""
    words, wanted = re.findall(r"\s+|\w+|[^\w\s]", reply), re.findall(r"\s+|\w+|[^\w\s]", reference)
    pieces = []
    for kind, start, end, _, _ in difflib.SequenceMatcher(None, words, wanted, autojunk=False).get_opcodes():
        if start < end:
            pieces.append(Piece("".join(words[start:end]), kind != "equal"))
    return tuple(pieces)


def _shown(sample: Sample) -> ShownSample:
    return ShownSample(
        sample=sample,
        base=difference(sample.base, sample.reference),
        tuned=difference(sample.tuned, sample.reference),
        base_matches=sample.base.strip() == sample.reference.strip(),
        tuned_matches=sample.tuned.strip() == sample.reference.strip(),
    )
