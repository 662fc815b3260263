"""From rows to micro-batches: seeded epoch order, rows of like length together, padding only on the right.

An optimizer step is `batch_size` rows whatever fits in memory; the micro-batches it is cut into never change its
loss (the sum over supervised tokens, divided by the step's count of them). Under causal attention a token sees only
what is left of it, so right padding needs no attention mask and the padded positions are simply not read.
The order of rows is a function of (seed, epoch): resuming needs a step number and nothing else.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

MICRO_BATCH_TOKENS = 4096
"""Padded tokens that one forward pass may hold (a longer row goes alone): bounds the memory of activations."""

LAUNCH_TOKENS = 64
"""What starting another micro-batch costs, in tokens' worth of time; padding below that is cheaper than a split."""


@dataclass(frozen=True, slots=True)
class Row:
    """One rendered row: `tokens` int32 (tokens,), `supervised` bool (tokens,): True where the token is a target."""

    tokens: NDArray[np.int32]
    supervised: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows padded to the longest of them, with the places where the model is asked to predict.

    `positions` index the flattened (rows * longest) grid: the place *before* each supervised token, whose next-token
    prediction is judged against `targets`.
    """

    input_ids: torch.Tensor  # (rows, longest) int64
    positions: torch.Tensor  # (supervised,) int64
    targets: torch.Tensor  # (supervised,) int64
    tokens: int  # without padding

    def to(self, device: torch.device) -> "MicroBatch":
        """The same micro-batch on `device`."""
        return MicroBatch(
            self.input_ids.to(device, non_blocking=True),
            self.positions.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            self.tokens,
        )


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps in one pass over `rows`; the last one may have fewer rows."""
    return math.ceil(rows / batch_size)


def step_rows(step: int, *, rows: int, batch_size: int, seed: int) -> NDArray[np.int64]:
    """Indices of the rows that optimizer step `step` (from 0) trains on; each epoch has its own shuffled order."""
    epoch, position = divmod(step, steps_per_epoch(rows, batch_size))
    return _epoch_order(rows, seed, epoch)[position * batch_size : (position + 1) * batch_size]


def micro_batches(rows: Sequence[Row], token_budget: int = MICRO_BATCH_TOKENS) -> list[MicroBatch]:
    """Cut `rows` into micro-batches of like lengths, each at most `token_budget` padded tokens (one row at least)."""
    by_length = sorted(rows, key=lambda row: len(row.tokens))
    ends = _cheapest_cuts([len(row.tokens) for row in by_length], token_budget)
    return [collate(by_length[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def collate(rows: Sequence[Row]) -> MicroBatch:
    """Pad `rows` on the right to the longest of them and find the supervised positions."""
    longest = max(len(row.tokens) for row in rows)
    input_ids = np.zeros((len(rows), longest), dtype=np.int64)
    predicted = np.zeros((len(rows), longest), dtype=np.bool_)
    for index, row in enumerate(rows):
        input_ids[index, : len(row.tokens)] = row.tokens
        predicted[index, : len(row.tokens) - 1] = row.supervised[1:]  # a first token has nothing to be predicted from
    positions = np.flatnonzero(predicted)
    return MicroBatch(
        input_ids=torch.from_numpy(input_ids),
        positions=torch.from_numpy(positions),
        targets=torch.from_numpy(input_ids.ravel()[positions + 1]),
        tokens=sum(len(row.tokens) for row in rows),
    )


@functools.lru_cache(maxsize=2)
def _epoch_order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(rows)


def _cheapest_cuts(lengths: list[int], token_budget: int) -> list[int]:
    """Ends of the contiguous groups of ascending `lengths` that cost least: padded tokens plus a fixed cost each.

    Exact by dynamic programming: the best cut of the first n rows extends a best cut of fewer.
    """
    cost = [0.0] + [math.inf] * len(lengths)  # cost[n]: of the first n rows
    start = [0] * (len(lengths) + 1)  # start[n]: where the last group of that cut begins
    for end in range(1, len(lengths) + 1):
        longest = lengths[end - 1]
        for begin in range(end - 1, -1, -1):
            padded = longest * (end - begin)
            if padded > token_budget and end - begin > 1:
                break
            if cost[begin] + padded + LAUNCH_TOKENS < cost[end]:
                cost[end] = cost[begin] + padded + LAUNCH_TOKENS
                start[end] = begin
    ends = []
    end = len(lengths)
    while end > 0:
        ends.append(end)
        end = start[end]
    return ends[::-1]
