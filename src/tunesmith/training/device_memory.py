"""What fits into the device's memory, by the memory plan: whether activations must be computed again, and how many
tokens can run at once.

Keeping each layer's input alone and computing the layer again in the backward pass (Chen et al. 2016,
https://arxiv.org/abs/1604.06174) costs a third more compute, and changes neither loss nor gradients. Smaller
micro-batches cost less; so `auto` checkpoints only when the longest example of all does not fit by itself.
"""

import logging
import os
from pathlib import Path

import msgspec
import torch

from tunesmith.errors import ModelError
from tunesmith.planning.memory import estimate, usable_bytes
from tunesmith.planning.shapes import ModelShape, load_shape
from tunesmith.planning.workload import Workload
from tunesmith.spec import GrpoSpec, PpoSpec, RunSpec, rewards_of
from tunesmith.training import ranks
from tunesmith.training.batches import MICRO_BATCH_TOKENS, Example
from tunesmith.training.sharding import wants_sharding

log = logging.getLogger(__name__)

GPU_TOKENS = (16384, 8192)
"""Micro-batches to try on a GPU. One of 16,384 tokens keeps an H100 busy on a model of a billion parameters."""


def wants_checkpointing(
    spec: RunSpec, longest: Example, *, device: torch.device, bf16: bool, available: int | None = None
) -> bool:
    """What `training.activation_checkpointing` says; `auto` asks whether training on `longest` fits into `available`
    bytes, by default the device's memory."""
    if spec.training.activation_checkpointing != "auto" or spec.adapter.kind == "prefix":
        return spec.training.activation_checkpointing == "on"
    room = device_bytes(device) if available is None else available
    shape, work = _shape(spec), _work(spec, longest, device=device, bf16=bf16)
    if shape is None:
        return False
    without = _step_bytes(spec, shape, work)
    if without <= room:
        return False
    with_it = _step_bytes(spec, shape, msgspec.structs.replace(work, checkpointing=True))
    log.warning(
        "an example of %s tokens needs about %.1f GiB, and %s has %.1f: activations are computed again in the "
        "backward pass (about %.1f GiB), which changes no result",
        f"{_longest_row(longest):,}", without / 2**30, device, room / 2**30, with_it / 2**30,
    )  # fmt: skip
    return True


def micro_batch_tokens(
    spec: RunSpec,
    longest: Example,
    *,
    device: torch.device,
    bf16: bool,
    checkpointing: bool,
    available: int | None = None,
) -> int:
    """Padded tokens that run at once: on a GPU as many of `GPU_TOKENS` as fit into `available` bytes by the plan.

    It takes less time to start few large operations than many small ones, and a GPU waits for them to be started.
    """
    if device.type == "cpu" or wants_sharding(spec):  # a sharded step that does not fit cannot be made again, smaller
        return MICRO_BATCH_TOKENS
    room = device_bytes(device) if available is None else available
    shape, work = _shape(spec), _work(spec, longest, device=device, bf16=bf16)
    if shape is None:
        return MICRO_BATCH_TOKENS
    for tokens in GPU_TOKENS:
        rows = max(1, tokens // work.length)
        tried = msgspec.structs.replace(work, rows=rows, checkpointing=checkpointing)
        if _step_bytes(spec, shape, tried) <= room:
            return tokens
    return MICRO_BATCH_TOKENS


def _step_bytes(spec: RunSpec, shape: ModelShape, work: Workload) -> int:
    """The peak of a step on `work`, counted by what learns: a pair's two rows are rows.

    An online objective holds its reference beside it, where that is not the model with its adapter off, and reward
    models, taken to be as large as the policy. Its rollouts are no part of the step: they are halved until they fit.
    """
    beside = 0
    if isinstance(spec.objective, GrpoSpec | PpoSpec):
        reference = 4 * shape.parameters // work.ranks if spec.adapter.kind == "full" else 0
        judges = sum(Path(reward).is_dir() for reward in rewards_of(spec.objective))
        beside = reference + judges * shape.parameters * (2 if work.device == "cuda" else 4)
    return estimate(shape, spec.adapter.kind, work).total + beside


def _work(spec: RunSpec, longest: Example, *, device: torch.device, bf16: bool) -> Workload:
    """`longest` alone."""
    replies = spec.objective.max_completion_length if isinstance(spec.objective, GrpoSpec | PpoSpec) else 0
    return Workload(
        rows=len(longest.rows),
        length=_longest_row(longest) + replies,
        precision="bf16" if bf16 else "fp32",
        rank=spec.adapter.r,
        virtual_tokens=spec.adapter.virtual_tokens,
        ranks=ranks.count() if wants_sharding(spec) else 1,
        sharded=wants_sharding(spec),
        device="cuda" if device.type == "cuda" else "cpu",
    )


def _shape(spec: RunSpec) -> ModelShape | None:
    """What the memory plan counts by; None for an architecture that it does not know."""
    try:
        return load_shape(spec.model)
    except ModelError:
        return None


def _longest_row(example: Example) -> int:
    return max(len(row.tokens) for row in example.rows)


def device_bytes(device: torch.device) -> int:
    """What training can use of the device's memory: of a GPU, what others (a vLLM, say) have left of it on any rank."""
    if device.type == "cuda":
        ours = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        return usable_bytes(min(ranks.gather(ours)) / 2**30)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
