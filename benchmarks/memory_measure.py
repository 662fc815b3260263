"""The measured peak of a training step: what PyTorch's CPU allocator gave and got back, as its profiler records it."""

import gc
import itertools
import multiprocessing
import os
import socket
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from benchmarks.memory_grid import Case
from torch import Tensor
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter
from torch.distributed.tensor import DTensor

from tunesmith.training import cpu_kernels, ranks
from tunesmith.training.sample_step import build_learner, sample_step

BACKEND = ("c10d::", "gloo:")
"""Operations of the backend that moves tensors between CPUs: its copies are its own, NCCL works on the tensors."""


def measured_peak(case: Case) -> int:
    """Bytes at the fullest moment of the second optimizer step of two micro-batches; of one rank where there are more.

    Weights, gradients and optimizer state are in it. It is taken of torch's operations: compiled kernels, which not
    every machine has, need less.
    """
    with mock.patch.object(cpu_kernels, "library", return_value=None):
        return _measured_peak(case)


def _measured_peak(case: Case) -> int:
    torch.manual_seed(0)
    gc.collect()
    gc.freeze()  # what there is already is neither searched nor counted
    learner = build_learner(case.config, case.method, case.work)
    step = sample_step(learner, case.method, case.work)
    step()  # whatever is made once is made
    held = _held_bytes()
    with _recorded() as during:
        step()
    return held + max(itertools.accumulate(during))


class Ranks:
    """As many processes as a case has ranks, joined as `tunesmith train --processes` joins them (gloo, FSDP2)."""

    def __init__(self, count: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        spawn = multiprocessing.get_context("spawn")
        numbers = spawn.SimpleQueue()
        for rank in range(count):
            numbers.put(rank)
        self._count = count
        self._processes = ProcessPoolExecutor(count, spawn, initializer=_join, initargs=(numbers, count, port))

    def measured_peak(self, case: Case) -> int:
        """Of the rank that holds most."""
        # Each process takes one: it cannot end its step without the others.
        return max(self._processes.map(measured_peak, [case] * self._count))

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._processes.shutdown()


def _join(numbers: Any, count: int, port: int) -> None:
    rank = numbers.get()
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count),
        RANK=str(rank), LOCAL_RANK=str(rank),
    )  # fmt: skip
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for collective in (DefaultAllGather, DefaultReduceScatter):
        _let_go(collective)
    ranks.join()


def _let_go(collective: Any) -> None:
    """Make `collective`, a class of FSDP2's, return when nothing of the backend holds its tensors any more.

    gloo says that it is done before its thread lets go of them, some time later: one layer more at a peak, or none.
    """
    communicate = collective.__call__

    def until_let_go(self: Any, output_tensor: Tensor, input_tensor: Tensor, *others: Any, **named: Any) -> Any:
        storages = [tensor.untyped_storage()._cdata for tensor in (output_tensor, input_tensor)]
        before = [torch._C._storage_Use_Count(storage) for storage in storages]
        work = communicate(self, output_tensor, input_tensor, *others, **named)
        while work is None and [torch._C._storage_Use_Count(storage) for storage in storages] > before:
            time.sleep(1e-4)
        return work

    collective.__call__ = until_let_go


def _held_bytes() -> int:
    """Of all new tensors, each storage once. A profiler may miss what a backend's thread gave back."""
    gc.collect()
    tensors = (found for found in gc.get_objects() if issubclass(type(found), torch.Tensor))
    plain = (found for found in tensors if not isinstance(found, DTensor) and found.device.type == "cpu")
    storages = {storage.data_ptr(): storage.nbytes() for found in plain if (storage := found.untyped_storage())}
    return sum(storages.values())


@contextmanager
def _recorded() -> Iterator[list[int]]:
    """Bytes that the allocator gave (and, negative, got back), in order; filled when the block ends."""
    changes: list[int] = []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        yield changes
    inside = set()  # addresses of what the backend holds
    for event, of_backend in sorted(_allocations(profile), key=lambda pair: pair[0].start_time_ns):
        address, size = event.extra_fields.ptr, event.extra_fields.alloc_size
        if size > 0 and of_backend:
            inside.add(address)
        elif size < 0 and address in inside:
            inside.remove(address)
        else:
            inside.discard(address)  # given back unseen, by a thread of the backend
            changes.append(size)


def _allocations(profile: Any) -> Iterator[tuple[Any, bool]]:
    """Every allocation and release, and whether it is within an operation of the backend."""
    waiting = [(event, False) for event in profile.profiler.kineto_results.experimental_event_tree()]
    while waiting:
        event, of_backend = waiting.pop()
        of_backend = of_backend or event.name.startswith(BACKEND)
        if event.tag == torch._C._profiler._EventType.Allocation:
            yield event, of_backend
        waiting += [(child, of_backend) for child in event.children]
