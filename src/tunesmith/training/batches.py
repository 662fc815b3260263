"""From rows to micro-batches: seeded epoch order, rows of like length together, padding only on the right.

An optimizer step is `batch_size` rows whatever fits in memory; the micro-batches it is cut into never change its
loss (a sum over the step's examples, divided by the step's weight). Under causal attention a token sees only
what is left of it, so right padding needs no attention mask and the padded positions are simply not read.
The order of rows is a function of (seed, epoch): resuming needs a step number and nothing else.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.dataset.lengths import GPU_LAUNCH_TOKENS, LAUNCH_TOKENS, cheapest_cuts
from tunesmith.dataset.lengths import MICRO_BATCH_TOKENS as MICRO_BATCH_TOKENS
from tunesmith.training.lanes import deal
from tunesmith.training.shared_prefix import SEGMENT_TOKENS, Forest, in_token_order, plant, shared_lengths

CPU = torch.device("cpu")

WORTH_SHARING = 2 * SEGMENT_TOKENS
"""Tokens that two examples must have in common to be kept together: their forest shares no fewer."""


@dataclass(frozen=True, slots=True)
class Row:
    """One rendered row: `tokens` int32 (tokens,), `supervised` bool (tokens,): True where the token is a target."""

    tokens: NDArray[np.int32]
    supervised: NDArray[np.bool_]

    @property
    def rows(self) -> tuple["Row", ...]:
        """A row is the simplest example: it is learned from by itself."""
        return (self,)

    @property
    def targets(self) -> int:
        """How many of its tokens are predicted: a supervised first one has nothing to be predicted from."""
        return int(self.supervised[1:].sum())


class Example(Protocol):
    """What an objective learns from at once: a row, a pair of them, a rollout; its rows share a micro-batch."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """As many rows as every other example of the objective has."""
        ...


E = TypeVar("E", bound=Example)
E_co = TypeVar("E_co", bound=Example, covariant=True)


@dataclass(frozen=True)
class MicroBatch(Generic[E_co]):
    """The rows of `examples`, in order, padded to the longest of them, with the places where the model must predict.

    `positions` index the flattened (rows * longest) grid: the place *before* each supervised token, whose next-token
    prediction is judged against `targets`. They are ordered by row, and in a row from left to right.
    With a `forest`, `input_ids` are its one flat sequence, (1, flat).
    """

    examples: tuple[E_co, ...]
    input_ids: torch.Tensor  # (rows, longest) int64
    positions: torch.Tensor  # (supervised,) int64
    targets: torch.Tensor  # (supervised,) int64
    row_of_target: torch.Tensor  # (supervised,) int64
    tokens: int  # without padding
    forest: Forest | None = None

    def to(self, device: torch.device) -> "MicroBatch[E_co]":
        """The same micro-batch on `device`."""
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            row_of_target=self.row_of_target.to(device, non_blocking=True),
        )

    @property
    def rows(self) -> int:
        """Rows of all examples."""
        return sum(len(example.rows) for example in self.examples)

    def row_sums(self, values: torch.Tensor) -> torch.Tensor:
        """`values` (supervised,) summed over each row's supervised tokens (rows,)."""
        return values.new_zeros(self.rows).index_add(0, self.row_of_target, values)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps in one pass over `rows`; the last one may have fewer rows."""
    return math.ceil(rows / batch_size)


def step_rows(step: int, *, rows: int, batch_size: int, seed: int) -> NDArray[np.int64]:
    """Indices of the rows that optimizer step `step` (from 0) trains on; each epoch has its own shuffled order."""
    epoch, position = divmod(step, steps_per_epoch(rows, batch_size))
    return _epoch_order(rows, seed, epoch)[position * batch_size : (position + 1) * batch_size]


def micro_batches(
    examples: Sequence[E], token_budget: int = MICRO_BATCH_TOKENS, device: torch.device = CPU
) -> list[MicroBatch[E]]:
    """Cut `examples` into micro-batches of like lengths, each at most `token_budget` padded tokens (or one example)."""
    by_length = sorted(examples, key=_longest)
    lengths = [_longest(example) for example in by_length]
    launch = LAUNCH_TOKENS if device.type == "cpu" else GPU_LAUNCH_TOKENS
    ends = cheapest_cuts(lengths, len(by_length[0].rows), token_budget, launch)
    return [collate(by_length[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def collate(examples: Sequence[E]) -> MicroBatch[E]:
    """Pad the rows of `examples` on the right to the longest of them and find the supervised positions."""
    rows = [row for example in examples for row in example.rows]
    longest = max(len(row.tokens) for row in rows)
    input_ids = np.zeros((len(rows), longest), dtype=np.int64)
    predicted = np.zeros((len(rows), longest), dtype=np.bool_)
    for index, row in enumerate(rows):
        input_ids[index, : len(row.tokens)] = row.tokens
        predicted[index, : len(row.tokens) - 1] = row.supervised[1:]  # a first token has nothing to be predicted from
    positions = np.flatnonzero(predicted)
    return MicroBatch(
        examples=tuple(examples),
        input_ids=torch.from_numpy(input_ids),
        positions=torch.from_numpy(positions),
        targets=torch.from_numpy(input_ids.ravel()[positions + 1]),
        row_of_target=torch.from_numpy(positions // longest),
        tokens=sum(len(row.tokens) for row in rows),
    )


def forest_batches(examples: Sequence[E], token_budget: int = MICRO_BATCH_TOKENS) -> list[MicroBatch[E]]:
    """Cut `examples` into forests of at most `token_budget` tokens (or one example), alike beginnings together.

    They are of about equal sizes, and as few as that allows.
    """
    pieces = [piece for family in _families(examples) for piece in family.cut(token_budget)]
    sizes = [piece.tokens for piece in pieces]
    hands = math.ceil(sum(sizes) / token_budget)
    while True:
        dealt = deal(sizes, hands)
        if all(len(hand) == 1 or sum(sizes[index] for index in hand) <= token_budget for hand in dealt):
            return [plant_batch([examples[i] for index in hand for i in pieces[index].examples]) for hand in dealt]
        hands += 1


@dataclass(frozen=True)
class _Family:
    """Examples (their indices) that begin with the same `shared` tokens, and how many tokens each adds to these.

    An example that stands behind another in the family may share more with it than all of them do: `behind` says how
    many tokens it then adds.
    """

    examples: list[int]
    shared: int
    alone: list[int]
    behind: list[int]

    @property
    def tokens(self) -> int:
        """Of the forest."""
        return self.shared + self.alone[0] + sum(self.behind[1:])

    def cut(self, token_budget: int) -> Iterator["_Family"]:
        """Even pieces that fit. Each of them computes the shared tokens anew, so they are as few as possible."""
        room = max(1, token_budget - self.shared)
        own = self.tokens - self.shared
        even = own / math.ceil(own / room) if own else 1
        start, held = 0, 0
        for index in range(len(self.examples)):
            added = self.behind[index]
            if index > start and (held + added > token_budget - self.shared or held + added / 2 > even):
                yield self._slice(start, index)
                start, held = index, 0
            held += self.alone[index] if index == start else added
        yield self._slice(start, len(self.examples))

    def _slice(self, start: int, stop: int) -> "_Family":
        part = slice(start, stop)
        return _Family(self.examples[part], self.shared, self.alone[part], self.behind[part])


def _families(examples: Sequence[Example]) -> Iterator[_Family]:
    order = in_token_order([example.rows[0].tokens for example in examples])
    each = len(examples[0].rows)
    sequences = [row.tokens for index in order for row in examples[index].rows]
    common = shared_lengths(sequences)
    own = np.array([len(tokens) for tokens in sequences]) - common
    behind = own.reshape(-1, each).sum(1)  # (examples,)
    before = common[::each]  # (examples,): what each has in common with the one that it stands behind
    starts = [0, *(np.flatnonzero(before[1:] <= WORTH_SHARING) + 1).tolist(), len(order)]
    for start, stop in itertools.pairwise(starts):
        shared = int(before[start + 1 : stop].min()) if stop > start + 1 else 0
        alone = behind[start:stop] + before[start:stop] - shared
        yield _Family(order[start:stop], shared, alone.tolist(), behind[start:stop].tolist())


def plant_batch(examples: Sequence[E]) -> MicroBatch[E]:
    """The rows of `examples` as one forest."""
    rows = [row for example in examples for row in example.rows]
    forest = plant([row.tokens for row in rows])
    predicted = [places[:-1][row.supervised[1:]] for row, places in zip(rows, forest.places, strict=True)]
    targets = [row.tokens[1:][row.supervised[1:]] for row in rows]
    return MicroBatch(
        examples=tuple(examples),
        input_ids=torch.from_numpy(forest.tokens.astype(np.int64)).unsqueeze(0),
        positions=torch.from_numpy(np.concatenate(predicted)),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        row_of_target=torch.from_numpy(np.repeat(np.arange(len(rows)), [len(part) for part in predicted])),
        tokens=sum(len(row.tokens) for row in rows),
        forest=forest,
    )


def _longest(example: Example) -> int:
    return max(len(row.tokens) for row in example.rows)


@functools.lru_cache(maxsize=2)
def _epoch_order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(rows)
