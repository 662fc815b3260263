"""How much memory a method needs: the field's rule of thumb, and an analytic count from the architecture alone.

The count follows one optimizer step of the engine through its three fullest moments: the head's logits, the backward
pass of a layer, and the gradient of the embedding. What autograd keeps for a Llama-like block is counted tensor by
tensor; `benchmarks.memory` holds the result against what the allocator gave. It costs microseconds; other block
designs (mixtures of experts, state spaces) are approximated, `plan --exact` traces them.
"""

import msgspec
import numpy as np
from msgspec import Struct

from tunesmith.planning.activations import (
    activation_bytes,
    backward_bytes,
    cast_bytes,
    eager_bytes,
    end_bytes,
    forward_logit_bytes,
    logit_bytes,
    mask_bytes,
    norm_backward_bytes,
    prefix_bytes,
    residual_width,
    rollout_bytes,
    update_bytes,
)
from tunesmith.planning.shapes import ModelShape
from tunesmith.planning.workload import Method, Workload, trainable_parameters

RULE_OF_THUMB: dict[Method, tuple[tuple[float, float], ...]] = {
    "full": ((1, 8), (7, 56), (13, 104), (70, 560)),
    "lora": ((1, 5), (7, 18), (13, 32), (70, 160)),
    "qlora": ((1, 3), (7, 8), (13, 14), (70, 48)),
}
"""Billions of parameters → GB, as the field quotes them (LoRA at rank 16, QLoRA with a 4-bit base)."""

NF4_BITS = 4.127
"""Bits per weight of NF4 with double quantization: 4 + 8/64 + 32/(64·256) (https://arxiv.org/abs/2305.14314, §3)."""

RESERVED_BYTES = 1_000_000_000
"""Of a GPU's memory: the CUDA context and the libraries' workspaces."""

USABLE_SHARE = 0.95
"""Of what is left: the caching allocator's fragmentation."""


BUCKET_BYTES = 2**26
"""Gradients that ranks send at once (`training/ranks.py`)."""

LARGEST_MICRO_BATCH = 64
"""Where looking for more ends: larger micro-batches no longer make a GPU faster."""


COMPLETIONS = 8
"""Replies sampled for each prompt by GRPO (TRL's default)."""


class Memory(Struct, frozen=True):
    """Bytes at the fullest moments of a training step.

    `activations` are held from the forward pass on; `logits` come on top while the head runs, `temporary` in the
    backward pass of a layer. `update` is the gradient of the embedding, made when the activations are gone.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    temporary: int
    update: int = 0

    @property
    def total(self) -> int:
        """The peak: everything held throughout, and the largest of the momentary parts."""
        held = self.weights + self.gradients + self.optimizer
        return held + max(self.activations + max(self.logits, self.temporary), self.update)


def rule_of_thumb(method: Method, parameters: int) -> float | None:
    """GB by the field's rule of thumb: its table, straight lines between the rows, in proportion outside them.

    None for the methods that the table does not have.
    """
    if method not in RULE_OF_THUMB:
        return None
    sizes, gigabytes = zip(*RULE_OF_THUMB[method], strict=True)
    billions = parameters / 1e9
    if billions < sizes[0]:
        return float(gigabytes[0] * billions / sizes[0])
    if billions > sizes[-1]:
        return float(gigabytes[-1] * billions / sizes[-1])
    return float(np.interp(billions, sizes, gigabytes))


def estimate(shape: ModelShape, method: Method, work: Workload) -> Memory:
    """Peak memory of one training step of `method`, in bytes per part, on each of the GPUs."""
    match method:
        case "prompt":  # virtual tokens stand in front of every row, and nothing is learned at them
            length = work.length + work.virtual_tokens
            share = work.supervised_share * work.length / length
            work = msgspec.structs.replace(work, length=length, supervised_share=share)
        case "dpo":  # a row is two: the chosen and the rejected reply
            work = msgspec.structs.replace(work, rows=2 * work.rows)
        case "grpo" | "ppo":  # there are no more rows than replies
            work = msgspec.structs.replace(work, rows=min(work.rows, work.own_rollouts))
    memory = _step(shape, method, work)
    if method in ("grpo", "ppo"):
        memory = msgspec.structs.replace(memory, update=rollout_bytes(shape, method, work))
    if method == "ppo":  # the reward model, as large as the policy, stays beside it
        memory = msgspec.structs.replace(memory, weights=memory.weights + shape.parameters * work.width)
    if work.ranks == 1:
        return memory
    if method == "full":
        return _sharded(memory, shape, work)
    return _sharded_base(memory, shape, work) if work.sharded else _replicated(memory)


def _step(shape: ModelShape, method: Method, work: Workload) -> Memory:
    tokens = work.tokens
    trainable = trainable_parameters(shape, method, work.rank, work.virtual_tokens)
    layer = activation_bytes(shape, method, work) * tokens
    if shape.eager:
        layer += eager_bytes(shape, work)
    if method == "prefix":
        layer += prefix_bytes(shape, work)
    casts = cast_bytes(shape, method, work)
    ends = end_bytes(shape, method, work)
    backward = backward_bytes(shape, method, work)
    logits = logit_bytes(shape, method, work)
    if work.checkpointing:  # each layer's input is kept; one layer at a time is computed again
        activations = shape.layers * shape.hidden * residual_width(method, work) * tokens
        backward += layer + casts // shape.layers
        logits = max(logits, casts + forward_logit_bytes(shape, method, work))  # they last through the forward pass
        if method not in ("full", "prefix", "prompt"):
            # A frozen embedding's output is made to learn: it and its gradient stay until the next micro-batch's loss.
            logits += 2 * shape.hidden * work.width * tokens
    else:
        activations = shape.layers * layer + casts
    if shape.eager:
        activations += mask_bytes(work)
    return Memory(
        weights=_weight_bytes(shape, method, work) + (0 if method == "full" else 4 * trainable),
        gradients=4 * trainable,  # parameters that learn are fp32, whatever the precision
        optimizer=8 * trainable,  # AdamW: two moments
        activations=activations,
        logits=ends + logits,
        temporary=max(backward, ends + norm_backward_bytes(shape, method, work)),
        update=update_bytes(shape, work) if method == "full" else 0,
    )


def usable_bytes(gpu_gib: float) -> int:
    """What training can use of a GPU with `gpu_gib` GiB."""
    return int((gpu_gib * 2**30 - RESERVED_BYTES) * USABLE_SHARE)


def largest_micro_batch(shape: ModelShape, method: Method, work: Workload, gpu_gib: float) -> int:
    """The most rows, a power of two up to `LARGEST_MICRO_BATCH`, whose step fits; 0 when not even one does."""
    fitting = 0
    rows = 1
    while rows <= LARGEST_MICRO_BATCH:
        if estimate(shape, method, msgspec.structs.replace(work, rows=rows)).total > usable_bytes(gpu_gib):
            break
        fitting, rows = rows, rows * 2
    return fitting


def _weight_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    if method == "full":
        return 4 * shape.parameters
    if method != "qlora":
        return shape.parameters * work.width
    return round(shape.linear_weights * NF4_BITS / 8) + (shape.parameters - shape.linear_weights) * work.width


def _replicated(memory: Memory) -> Memory:
    """Each rank holds everything; gradients are added in buckets, each copied into one tensor to be sent."""
    return msgspec.structs.replace(memory, update=max(memory.update, min(memory.gradients, BUCKET_BYTES)))


def _sharded(memory: Memory, shape: ModelShape, work: Workload) -> Memory:
    """On each of `work.ranks` ranks: a share of what is held, and what FSDP2 gathers of it for a moment.

    The embedding, the final norm and the head are one group, whole from the first pass to the end of the backward
    pass; so are their gradients once they are there. Each layer is a group that is whole while it computes. What was
    gathered comes in one buffer, which lives until the next group's has been taken apart, and gradients leave in one,
    which lives until the next layer's leave: in fp32, while all else is in the run's precision.
    """
    held = (memory.weights, memory.gradients, memory.optimizer)
    weights, gradients, optimizer = (-(-part // work.ranks) for part in held)
    matrix, root, layer = _groups(shape, work)
    layers, leaving = shape.layers, 4 // work.width
    waits = memory.temporary + (0 if shape.tied else matrix)  # where it is tied, the head's gradient is in it already
    # When the last layer's backward pass begins, it is whole and the one before it is fetched; at its end its gradients
    # are there and its activations gone, its first norm's last. Later ones have the gradients of the layer after them,
    # too.
    of_layer = memory.activations // layers
    first = layer + min(layers - 1, 1) * layer
    begins = waits + first
    ends = matrix + first + layer - of_layer + norm_backward_bytes(shape, "full", work)
    if layers > 2:
        begins = max(begins, waits + (2 + leaving) * layer - of_layer)
        ends = max(ends, matrix + (3 + leaving) * layer - 2 * of_layer)
    embedding = root + memory.update + (0 if shape.tied else matrix) + leaving * layer
    return msgspec.structs.replace(
        memory,
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=memory.activations + root,
        temporary=max(begins, ends),
        update=max(embedding, (1 + leaving) * root + leaving * layer),  # or when the next pass gathers the group
    )


def _sharded_base(memory: Memory, shape: ModelShape, work: Workload) -> Memory:
    """The frozen base is shared as in `_sharded`, and has no gradients; each rank holds the adapter."""
    _, root, layer = _groups(shape, work)
    base, layers = shape.parameters * work.width, min(shape.layers, 2) * layer
    replicated = _replicated(memory)
    rollouts = memory.update + root + layers if memory.update else 0  # they gather the base as a pass does
    return msgspec.structs.replace(
        replicated,
        weights=memory.weights - base + -(-base // work.ranks),
        activations=memory.activations + root,
        temporary=memory.temporary + layers,
        update=max(replicated.update, rollouts, 2 * root + layers),  # when a pass begins: the group beside its buffer
    )


def _groups(shape: ModelShape, work: Workload) -> tuple[int, int, int]:
    """Bytes of what FSDP2 gathers at once: the embedding alone, all outside the layers, and a layer."""
    matrix = work.width * shape.vocabulary * shape.hidden
    root = matrix * (1 if shape.tied else 2) + work.width * shape.hidden
    return matrix, root, (work.width * shape.parameters - root) // shape.layers
