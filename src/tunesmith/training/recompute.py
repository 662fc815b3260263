"""Activation checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174), only where the memory plan asks.

Keeping each layer's input alone and computing the layer again in the backward pass costs a third more compute, and
changes neither loss nor gradients. Smaller micro-batches cost less, and the engine finds them by itself; so `auto`
checkpoints only when the longest example of all does not fit by itself.
"""

import logging
import os

import msgspec
import torch

from tunesmith.errors import ModelError
from tunesmith.planning.memory import estimate, usable_bytes
from tunesmith.planning.shapes import load_shape
from tunesmith.planning.workload import Method, Workload
from tunesmith.spec import GrpoSpec, PpoSpec, RunSpec
from tunesmith.training import ranks
from tunesmith.training.batches import Example
from tunesmith.training.sharding import wants_sharding

log = logging.getLogger(__name__)


def wants_checkpointing(
    spec: RunSpec, longest: Example, *, device: torch.device, bf16: bool, available: int | None = None
) -> bool:
    """What `training.activation_checkpointing` says; `auto` asks whether training on `longest` fits into `available`
    bytes, by default the device's memory."""
    if spec.training.activation_checkpointing != "auto" or spec.adapter.kind == "prefix":
        return spec.training.activation_checkpointing == "on"
    room = device_bytes(device) if available is None else available
    try:
        shape = load_shape(spec.model)
    except ModelError:  # an architecture that the plan cannot count
        return False
    tokens = max(len(row.tokens) for row in longest.rows)
    replies = spec.objective.max_completion_length if isinstance(spec.objective, GrpoSpec | PpoSpec) else 0
    work = Workload(
        rows=len(longest.rows),
        length=tokens + replies,
        precision="bf16" if bf16 else "fp32",
        rank=spec.adapter.r,
        virtual_tokens=spec.adapter.virtual_tokens,
        ranks=ranks.count() if wants_sharding(spec) else 1,
        sharded=wants_sharding(spec),
    )
    without = estimate(shape, _method(spec), work).total
    needed = without > room
    if needed:
        with_it = estimate(shape, _method(spec), msgspec.structs.replace(work, checkpointing=True)).total
        log.warning(
            "an example of %s tokens needs about %.1f GiB, and %s has %.1f: activations are computed again in the "
            "backward pass (about %.1f GiB), which changes no result",
            f"{tokens:,}", without / 2**30, device, room / 2**30, with_it / 2**30,
        )  # fmt: skip
    return needed


def device_bytes(device: torch.device) -> int:
    """What training can use of the device's memory."""
    if device.type == "cuda":
        return usable_bytes(torch.cuda.get_device_properties(device).total_memory / 2**30)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _method(spec: RunSpec) -> Method:
    """By its adapter: a pair's two rows are counted as rows."""
    return "ppo" if isinstance(spec.objective, PpoSpec) else spec.adapter.kind
