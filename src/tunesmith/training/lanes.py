"""Threads that compute side by side on a CPU, each on one core with one thread of its own.

Threads inside an operation wait for one another at its end, thousands of times a step, and what is between the
operations runs on one core only. So work that comes in parts that need little of one another (stretches of a forest,
positions under the head) is given out in parts instead. Who computes what is fixed: a result does not depend on which
core was faster.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import nn

from tunesmith.training.sharding import is_sharded

T = TypeVar("T")

FEW_PARAMETERS = 0.1
"""Share of the parameters that may learn for a copy of their gradients per lane not to matter."""


class LaneLeftError(Exception):
    """What this lane waited for will not come: the lane that has it failed."""


class Lanes:
    """`count` threads, each of which computes on one core; one lane is the calling thread with all of its threads."""

    def __init__(self, count: int) -> None:
        self.count = count
        # One each: a thread that took another's part, since its own was done early, could round otherwise.
        self._threads = [ThreadPoolExecutor(1, "lane", torch.set_num_threads, (1,)) for _ in range(count)]

    def run(self, work: Callable[[T], None], parts: Sequence[T]) -> None:
        """Do `work` on all `parts` (at most `count`) at the same time, with gradients and autocast as the caller."""
        if len(parts) == 1 or self.count == 1:
            for part in parts:
                work(part)
            return
        threads, learning = torch.get_num_threads(), torch.is_grad_enabled()
        narrow, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

        def alone(part: T) -> None:
            # Autocast's cache of cast weights is the process's: lanes would share parts of one another's graphs.
            autocast = torch.autocast("cpu", dtype, enabled=narrow, cache_enabled=False)
            with torch.set_grad_enabled(learning), autocast:
                work(part)

        futures = [thread.submit(alone, part) for thread, part in zip(self._threads, parts, strict=False)]
        wait(futures)
        torch.set_num_threads(threads)  # what a lane sets for itself, new threads of the process would inherit
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:  # one that only waited in vain for another says nothing
            raise next((error for error in errors if not isinstance(error, LaneLeftError)), errors[0])


def possible_lanes(model: nn.Module) -> int:
    """Lanes for running `model`: the cores of a CPU, unless gradients are asked of more than a few parameters."""
    if next(model.parameters()).device.type != "cpu" or is_sharded(model):
        return 1
    if torch.is_grad_enabled() and learning_share(model) > FEW_PARAMETERS:
        return 1
    return torch.get_num_threads()


def learning_share(model: nn.Module) -> float:
    """Of the parameters of `model`, those that learn."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, learns in sizes if learns) / sum(size for size, _ in sizes)


def deal(sizes: Sequence[int], hands: int) -> list[list[int]]:
    """Indices of `sizes` in at most `hands` parts of about equal sums, the largest dealt first (Graham 1969)."""
    parts: list[list[int]] = [[] for _ in range(hands)]
    sums = [0] * hands
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        least = sums.index(min(sums))
        parts[least].append(index)
        sums[least] += sizes[index]
    return [sorted(part) for part in parts if part]
