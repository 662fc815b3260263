"""Several processes training one run: who takes which share, and how their sums become one.

Each rank holds the model, takes its share of a step's examples, and adds its gradients to the others' once a step,
before they are clipped; since the loss is a sum divided by the weight of the whole step, any number of ranks gives the
loss and the gradients of one. That is DDP with its reduction after the last micro-batch, without a wrapper around the
model: it sends a gradient once, overlapping nothing, which for an adapter is next to nothing to send.
Accelerate reads torchrun's environment and picks the backend (NCCL on GPUs, gloo on CPUs). One process by itself calls
nothing of this.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import Tensor
from torch import distributed as dist
from torch.distributed.tensor import DTensor

from tunesmith.errors import RunError, TunesmithError
from tunesmith.settings import first_process


class RankLostError(RunError):
    """Another process of the run is gone, and what it was about to add with it."""


LOST = "another process of this run is gone; go on from the last checkpoint: --resume"

T = TypeVar("T")
R = TypeVar("R")

BUCKET = 2**24
"""Numbers sent together (64 MiB in fp32): enough to use a network's bandwidth, little beside a model."""


def join() -> torch.device:
    """Join the processes that a launcher started, if one did; the device of this one."""
    device: torch.device = PartialState().device
    return device


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def index() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the one that writes and speaks; also before it has joined the others."""
    return index() == 0 if dist.is_initialized() else first_process()


def gather(value: T) -> list[T]:
    """Every rank's `value` (picklable, on no device), in their order."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    with _all_there():
        dist.all_gather_object(values, value)
    return values


def from_main(value: T) -> T:
    """What the main process says."""
    return gather(value)[0]


def agree(value: bool) -> bool:
    """Whether it is so on any rank."""
    return any(gather(value))


def share(items: Sequence[T], size: Callable[[T], int]) -> Sequence[T]:
    """This rank's part of `items`, dealt out by `size` so that all have about as much to do; maybe none."""
    if count() == 1:
        return items
    return sorted(items, key=size)[index() :: count()]


def each(items: Sequence[T], function: Callable[[Sequence[T]], Sequence[R]], *, in_step: bool = False) -> list[R]:
    """What `function` makes of `items`, one for one and in order, every rank calling it on its own share of them.

    None is left without any, since ranks may compute `in_step`.
    """
    if count() == 1:
        return list(function(items))
    own = items[index() :: count()] or items[:1]
    with computing_in_step() if in_step else agreeing():
        made = list(function(own))
    parts = gather(made)
    return [parts[place % count()][place // count()] for place in range(len(items))]


@contextmanager
def agreeing() -> Iterator[None]:
    """What a person can mend stops every rank when it stops one: none is left waiting, and the first can save."""
    if count() == 1:
        yield
        return
    error: TunesmithError | None = None
    try:
        yield
    except TunesmithError as raised:
        error = raised
    failed = [found for found in gather(None if error is None else (type(error), str(error))) if found is not None]
    if error is not None:
        raise error
    if failed:
        kind, message = failed[0]
        raise kind(message)


@contextmanager
def computing_in_step() -> Iterator[None]:
    """The ranks compute with a model that is spread over them.

    One that fails leaves the others in the middle of a layer, with nothing to agree on; they find the connection
    closed.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):  # gloo's are of no class of their own
            raise RankLostError(LOST) from error
        raise


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes first, the others after it: they find in the cache what it has made."""
    if count() == 1:
        yield
        return
    with agreeing():
        if is_main():
            yield
    if not is_main():
        yield


@torch.no_grad()
def add_gradients(parameters: Sequence[Tensor]) -> None:
    """Give every rank the sum of all ranks' gradients; a sharded parameter's are added as they are scattered."""
    parameters = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    if count() == 1 or not parameters:
        return
    for parameter in parameters:
        if parameter.grad is None:  # nothing of this rank's share was its
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        with _all_there():
            dist.all_reduce(flat)
        sums = torch.split(flat, [gradient.numel() for gradient in bucket])
        for gradient, summed in zip(bucket, sums, strict=True):
            gradient.copy_(summed.view_as(gradient))


@contextmanager
def _all_there() -> Iterator[None]:
    """A backend says in its own words that a connection is closed."""
    try:
        yield
    except RuntimeError as error:
        raise RankLostError(LOST) from error


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    held = 0
    for gradient in gradients:
        if bucket and (held + gradient.numel() > BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, held = [], 0
        bucket.append(gradient)
        held += gradient.numel()
    if bucket:
        yield bucket
