"""A forest's one sequence of tokens cut into stretches, which run through the layers side by side, each on one core.

Only attention looks beyond a stretch, and only at what stands before it: keys and values go to the lanes behind, and
the gradients of them come back. A lane waits where it is ahead of what it needs, so it does not matter whose turn is
slower in which layer. What rows share is computed once, whatever the number of cores, and a row may be cut anywhere, so
that all lanes have the same to do. The cost is a copy of the gradients of what learns for each lane.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tunesmith.training.forest_table import ForestTable, forest_table
from tunesmith.training.gradients import add_gradient
from tunesmith.training.lanes import LaneLeftError, Lanes
from tunesmith.training.shared_prefix import Forest

LEAST_TOKENS = 64
"""Of a stretch: fewer are not worth a core."""

ATTENDED_TOKENS = 1000
"""Tokens that cost as much to attend to as one costs in the rest of a layer (measured on a 135M-parameter Llama)."""


class Exchange:
    """What lanes give one another, each of which computes the tokens `ends[lane]` to `ends[lane + 1]` of a forest."""

    def __init__(self, ends: Sequence[int]) -> None:
        self._ends = ends
        self._lanes = range(len(ends) - 1)
        pairs = [(giver, taker) for giver in self._lanes for taker in self._lanes]
        self._given: dict[tuple[int, int], SimpleQueue[tuple[Tensor, ...] | None]] = {
            pair: SimpleQueue() for pair in pairs
        }

    def behind_others(self, lane: int, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Each of `states` (groups, tokens, width) of a lane behind those of the lanes before."""
        for other in self._lanes[lane + 1 :]:
            self._given[lane, other].put(states)
        parts = [*(self._take(other, lane) for other in self._lanes[:lane]), states]
        return tuple(torch.cat(same, 1) for same in zip(*parts, strict=True))

    def added_up(self, lane: int, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Of `sums` (groups, tokens up to the lane's end, width), the lane's part with those of the lanes behind."""
        for other in self._lanes[:lane]:
            self._given[lane, other].put(self._part(other, sums))
        own = self._part(lane, sums)
        for other in self._lanes[lane + 1 :]:
            for total, more in zip(own, self._take(other, lane), strict=True):
                total += more
        return own

    def _part(self, lane: int, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(total[:, self._ends[lane] : self._ends[lane + 1]] for total in sums)

    def _take(self, giver: int, taker: int) -> tuple[Tensor, ...]:
        given = self._given[giver, taker].get()
        if given is None:
            raise LaneLeftError
        return given

    @contextmanager
    def attended(self, lane: int) -> Iterator[None]:
        """When `lane` fails in here, those that wait for it fail with LaneLeftError."""
        try:
            yield
        except BaseException:
            for other in self._lanes:
                self._given[lane, other].put(None)
            raise


@dataclass(frozen=True)
class Stretch:
    """Tokens `start` to `end` of a forest's flat sequence: all of it, or what one `lane` computes.

    `read` are the places in it, each once, whose last hidden states are asked for; None means all.
    """

    forest: Forest
    start: int
    end: int
    lane: int = 0
    exchange: Exchange | None = None
    read: Tensor | None = None  # (read,)

    @property
    def position_ids(self) -> NDArray[np.int64]:
        """Each token's position in its rows, (tokens,)."""
        return self.forest.position_ids[self.start : self.end]

    @functools.cached_property
    def table(self) -> ForestTable:
        """What compiled attention reads."""
        return forest_table(self.forest, self.start, self.end)

    def blocks(self, size: int) -> list[tuple[slice, list[slice]]]:
        """Blocks of at most `size` queries, and the parts of the forest that they see.

        Queries are counted from the stretch's start; the last part ends with them.
        """
        blocks = []
        for segment in self.forest.segments:
            before = [slice(ancestor.start, ancestor.end) for ancestor in segment.ancestors]
            stop = min(segment.end, self.end)
            for first in range(max(segment.start, self.start), stop, size):
                last = min(first + size, stop)
                queries = slice(first - self.start, last - self.start)
                blocks.append((queries, [*before, slice(segment.start, last)]))
        return blocks

    def seen(self, *states: Tensor) -> tuple[Tensor, ...]:
        """`states` (groups, tokens, width) of this stretch, each as that of all tokens up to its end."""
        return states if self.exchange is None else self.exchange.behind_others(self.lane, states)

    def own(self, *sums: Tensor) -> tuple[Tensor, ...]:
        """This stretch's part of `sums` (groups, tokens up to its end, width), added up over the lanes."""
        return sums if self.exchange is None else self.exchange.added_up(self.lane, sums)

    def attended(self) -> AbstractContextManager[None]:
        """What runs this stretch does so in here: the lanes that wait for it learn when it fails."""
        return nullcontext() if self.exchange is None else self.exchange.attended(self.lane)


def whole_forest(forest: Forest) -> Stretch:
    """All of `forest` as one stretch."""
    return Stretch(forest, 0, len(forest.tokens))


def stretches(forest: Forest, lanes: int) -> list[Stretch]:
    """`forest` in at most `lanes` stretches that cost about the same."""
    tokens = len(forest.tokens)
    count = max(1, min(lanes, tokens // LEAST_TOKENS))
    costs = np.cumsum(1 + (forest.position_ids + 1) / ATTENDED_TOKENS)  # (tokens,), each with all before it
    cuts = np.searchsorted(costs, costs[-1] * np.arange(1, count) / count)
    ends = [0, *cuts.tolist(), tokens]
    exchange = Exchange(ends) if count > 1 else None
    return [Stretch(forest, ends[lane], ends[lane + 1], lane, exchange) for lane in range(count)]


StatesOf: TypeAlias = Callable[[Tensor, Tensor, Stretch], Tensor]
"""What a model makes of tokens (1, tokens) of a stretch at some positions in it: (positions, hidden)."""


def states_in_lanes(
    states_of: StatesOf, model: nn.Module, lanes: Lanes, input_ids: Tensor, positions: Tensor, forest: Forest
) -> Tensor:
    """`states_of` the forest's tokens `input_ids` (1, flat) at `positions`, computed in stretches.

    Its backward pass adds the gradients of what learns in `model` to the parameters themselves.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parts = [_Part(stretch, _inside(stretch, positions)) for stretch in stretches(forest, lanes.count)]
    learns = torch.is_grad_enabled() and bool(learning)

    def forward(part: _Part) -> None:
        with torch.set_grad_enabled(learns), part.stretch.attended():
            tokens = input_ids[:, part.stretch.start : part.stretch.end]
            part.states = states_of(tokens, positions[part.indices] - part.stretch.start, part.stretch)

    trigger = torch.zeros((), requires_grad=learns)
    states: Tensor = _InLanes.apply(trigger, forward, lanes, parts, learning)  # type: ignore[no-untyped-call]
    return states


@dataclass
class _Part:
    """A stretch, which of the positions are in it, and what came of them."""

    stretch: Stretch
    indices: Tensor  # (own positions,)
    states: Tensor | None = None  # (own positions, hidden), with its graph
    gradients: Sequence[Tensor | None] = ()


class _InLanes(torch.autograd.Function):
    """Each lane has a graph of its own; to the caller they are one operation."""

    @staticmethod
    def forward(
        ctx: Any,
        _trigger: Tensor,
        forward: Callable[[_Part], None],
        lanes: Lanes,
        parts: list[_Part],
        learning: list[nn.Parameter],
    ) -> Tensor:
        lanes.run(forward, parts)
        ctx.lanes, ctx.parts, ctx.learning = lanes, parts, learning
        states = torch.cat([part.states.detach() for part in parts if part.states is not None])
        return torch.empty_like(states).index_copy_(0, torch.cat([part.indices for part in parts]), states)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        learning: list[nn.Parameter] = ctx.learning

        def backward(part: _Part) -> None:
            assert part.states is not None  # noqa: S101  # forward made them
            with part.stretch.attended():
                by_states = upstream[0][part.indices]
                part.gradients = torch.autograd.grad(part.states, learning, by_states, allow_unused=True)
            part.states = None

        ctx.lanes.run(backward, ctx.parts)
        for index, parameter in enumerate(learning):
            for part in ctx.parts:
                if (gradient := part.gradients[index]) is not None:
                    add_gradient(parameter, gradient)
        return None, None, None, None, None


def _inside(stretch: Stretch, positions: Tensor) -> Tensor:
    return ((positions >= stretch.start) & (positions < stretch.end)).nonzero().squeeze(1)
