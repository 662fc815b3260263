"""Micro-batches side by side: on a CPU each core computes its own, forward and backward, with one thread.

Threads inside an operation wait for one another at its end, thousands of times a step, and what is between the
operations runs on one core only. A micro-batch of a thousand tokens fills a core as well as a larger one, so the cores
share out the micro-batches instead. Who computes what is fixed and gradients are added in that order: a step's
numbers do not depend on which core was faster. The cost is a copy of the gradients for each lane, which is small beside
the model where an adapter learns.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

FEW_PARAMETERS = 0.1
"""Share of the parameters that may learn for a copy of their gradients per lane not to matter."""


class Lanes:
    """`count` threads, each of which computes on one core; one lane is the calling thread with all of its threads."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, "lane", torch.set_num_threads, (1,)) if count > 1 else None

    def run(self, work: Callable[[T], None], parts: Sequence[T]) -> None:
        """Do `work` on all `parts` at the same time, with gradients where the caller has them."""
        if self._pool is None or len(parts) == 1:
            for part in parts:
                work(part)
            return
        threads, learning = torch.get_num_threads(), torch.is_grad_enabled()

        def alone(part: T) -> None:
            with torch.set_grad_enabled(learning):
                work(part)

        futures = [self._pool.submit(alone, part) for part in parts]
        wait(futures)
        torch.set_num_threads(threads)  # what a lane sets for itself, new threads of the process would inherit
        for future in futures:
            future.result()


def possible_lanes(model: nn.Module, device: torch.device) -> int:
    """Lanes for training `model`: the cores of a CPU, where few parameters learn."""
    parameters = list(model.parameters())
    learning = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    if device.type != "cpu" or learning > FEW_PARAMETERS * sum(parameter.numel() for parameter in parameters):
        return 1
    return torch.get_num_threads()


class OwnGradients:
    """One lane's gradients of `parameters`, kept apart from the other lanes'."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._gradients: list[Tensor | None] = [None] * len(parameters)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`."""
        for index, gradient in enumerate(torch.autograd.grad(loss, self._parameters, allow_unused=True)):
            if gradient is not None:
                self._gradients[index] = _sum(self._gradients[index], gradient)

    def give(self) -> None:
        """Add them to the parameters' own."""
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            if gradient is not None:
                parameter.grad = _sum(parameter.grad, gradient)


def _sum(held: Tensor | None, more: Tensor) -> Tensor:
    return more if held is None else held.add_(more)


def deal(sizes: Sequence[int], hands: int) -> list[list[int]]:
    """Indices of `sizes` in at most `hands` parts of about equal sums, the largest dealt first (Graham 1969)."""
    parts: list[list[int]] = [[] for _ in range(hands)]
    sums = [0] * hands
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        least = sums.index(min(sums))
        parts[least].append(index)
        sums[least] += sizes[index]
    return [sorted(part) for part in parts if part]
