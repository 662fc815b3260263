"""Rows that begin alike compute what they share once: a forest over token ids, laid out as one flat sequence.

Under causal attention a token's state depends only on the tokens before it, so rows with a common beginning (a system
prompt, a few-shot header, the prompt of a preference pair or of a group of samples) have equal states there. The rows
of a micro-batch are merged into a forest of segments, found by their tokens and never declared; each segment is
computed once, attends to its ancestors and itself, and gives its gradient for all rows that run through it.
A forest without shared segments is still worth having: it is the rows end to end, without any padding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEGMENT_TOKENS = 8
"""What one more segment costs (its keys are gathered, its attention is a call of its own), in tokens' worth of time."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens `start` to `end` of the flat sequence; the first is at `position` in its rows."""

    start: int
    end: int
    position: int
    ancestors: tuple["Segment", ...]

    @property
    def path(self) -> tuple["Segment", ...]:
        """The ancestors and the segment itself: what its last token has seen."""
        return (*self.ancestors, self)


@dataclass(frozen=True, slots=True)
class Forest:
    """Rows as segments of one flat sequence of `tokens`.

    `places[i][p]` is where token `p` of row `i` stands in the sequence, so rows that share it name the same place.
    """

    tokens: NDArray[np.int32]  # (flat,)
    segments: tuple[Segment, ...]
    places: tuple[NDArray[np.int64], ...]

    @property
    def position_ids(self) -> NDArray[np.int64]:
        """Each token's position in its rows, (flat,)."""
        return np.concatenate(
            [np.arange(part.position, part.position + part.end - part.start) for part in self.segments]
        )

    @property
    def subtree_ends(self) -> NDArray[np.int64]:
        """Where the segments below each token's segment end in the sequence, (flat,): what may see it ends there."""
        ends = {part.start: part.end for part in self.segments}
        for part in self.segments:  # each stands behind its ancestors, and before what is not below them
            for ancestor in part.ancestors:
                ends[ancestor.start] = part.end
        return np.repeat(list(ends.values()), [part.end - part.start for part in self.segments])


def plant(rows: Sequence[NDArray[np.int32]]) -> Forest:
    """The forest of `rows` (token ids, each at least one), sharing a beginning wherever that saves time."""
    order = in_token_order(rows)
    common = shared_lengths([rows[index] for index in order])
    segments: list[Segment] = []
    tokens: list[NDArray[np.int32]] = []
    places: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)] * len(rows)
    end = 0

    def add(row: int, start: int, stop: int, ancestors: tuple[Segment, ...]) -> tuple[Segment, ...]:
        nonlocal end
        segment = Segment(end, end + stop - start, start, ancestors)
        segments.append(segment)
        tokens.append(rows[row][start:stop])
        end = segment.end
        return segment.path

    # Sorted rows, `first` to `last`, whose first `depth` tokens are on a path that is laid out: depth first, and not by
    # recursion, since as many rows as there are may each begin the next.
    waiting: list[tuple[int, int, int, tuple[Segment, ...]]] = [(0, len(rows), 0, ())]
    while waiting:
        first, last, depth, path = waiting.pop()
        row, count = order[first], last - first
        if count == 1:
            if len(rows[row]) > depth:
                path = add(row, depth, len(rows[row]), path)
            places[row] = np.concatenate([np.arange(part.start, part.end) for part in path])
            continue
        shared = int(common[first + 1 : last].min())
        if (shared - depth) * (count - 1) > SEGMENT_TOKENS * count:
            path = add(row, depth, shared, path)
            depth = shared
        waiting += [(start, stop, depth, path) for start, stop in reversed([*_groups(common, first, last, shared)])]
    return Forest(np.concatenate(tokens), tuple(segments), tuple(places))


def in_token_order(rows: Sequence[NDArray[np.int32]]) -> list[int]:
    """Indices of `rows` sorted by their tokens: those that begin alike stand together."""
    return sorted(range(len(rows)), key=lambda index: rows[index].astype(">u4").tobytes())


def shared_lengths(rows: Sequence[NDArray[np.int32]]) -> NDArray[np.int64]:
    """How many tokens each row has in common with the one before it; 0 for the first."""
    shared = np.zeros(len(rows), dtype=np.int64)
    for index in range(1, len(rows)):
        before, row = rows[index - 1], rows[index]
        size = min(len(before), len(row))
        differs = np.flatnonzero(before[:size] != row[:size])
        shared[index] = differs[0] if len(differs) else size
    return shared


def _groups(common: NDArray[np.int64], first: int, last: int, shared: int) -> Iterator[tuple[int, int]]:
    """Cut the sorted rows where neighbours have no more than `shared` tokens in common."""
    start = first
    for index in range(first + 1, last):
        if common[index] <= shared:
            yield start, index
            start = index
    yield start, last
