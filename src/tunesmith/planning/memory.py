"""How much memory a method needs: the field's rule of thumb, and an analytic count from the architecture alone.

The count follows one optimizer step of the engine through its three fullest moments: the head's logits, the backward
pass of a layer, and the gradient of the embedding. What autograd keeps for a Llama-like block is counted tensor by
tensor; `benchmarks/memory.py` holds the result against what the allocator gave. It costs microseconds; other block
designs (mixtures of experts, state spaces) are approximated, `plan --exact` traces them.
"""

from typing import Literal

import msgspec
import numpy as np
from msgspec import Struct

from tunesmith.planning.shapes import ModelShape

Method = Literal["full", "lora", "qlora", "prefix", "prompt", "dpo", "grpo", "ppo"]
"""Adapters under supervised fine-tuning; `dpo`, `grpo` and `ppo` (RLHF) train a LoRA adapter."""

Precision = Literal["fp32", "bf16"]

RULE_OF_THUMB: dict[Method, tuple[tuple[float, float], ...]] = {
    "full": ((1, 8), (7, 56), (13, 104), (70, 560)),
    "lora": ((1, 5), (7, 18), (13, 32), (70, 160)),
    "qlora": ((1, 3), (7, 8), (13, 14), (70, 48)),
}
"""Billions of parameters → GB, as the field quotes them (LoRA at rank 16, QLoRA with a 4-bit base)."""

NF4_BITS = 4.127
"""Bits per weight of NF4 with double quantization: 4 + 8/64 + 32/(64·256) (https://arxiv.org/abs/2305.14314, §3)."""

FAST_NORMS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Architectures whose norms are the engine's own (`training/fast_layers.py`)."""

CHUNK_LOGITS = 2**24
"""Logits that the engine's loss holds at once."""

CACHED_LOGITS = 2**20
"""Of these, those turned to fp32 at once on a CPU."""

RESERVED_BYTES = 1_000_000_000
"""Of a GPU's memory: the CUDA context and the libraries' workspaces."""

USABLE_SHARE = 0.95
"""Of what is left: the caching allocator's fragmentation."""


LARGEST_MICRO_BATCH = 64
"""Where looking for more ends: larger micro-batches no longer make a GPU faster."""


VIRTUAL_TOKENS = 20
"""Of prefix and prompt tuning; PEFT's examples use about so many."""

COMPLETIONS = 8
"""Replies sampled for each prompt by GRPO (TRL's default)."""

SAMPLED_ROWS, SAMPLED_TOKENS = 64, 16384
"""Replies, and cells of their cache, that are sampled at once."""

READ_TOKENS = 4096
"""Tokens of replies that are read at once for their log-probabilities."""


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


class Workload(Struct, frozen=True):
    """What one forward and backward pass holds: `rows` of `length` tokens, a share of which is supervised.

    `ranks` GPUs share weights, gradients and optimizer state (FSDP, fully sharded); `rows` are those of one of them.
    `rollouts` are the replies that a step of GRPO or PPO samples.
    """

    rows: int
    length: int
    supervised_share: float = 0.5
    precision: Precision = "bf16"
    rank: int = 16
    checkpointing: bool = False
    ranks: int = 1
    rollouts: int = 64
    device: Literal["cpu", "cuda"] = "cuda"

    @property
    def tokens(self) -> int:
        """Padded tokens in the micro-batch."""
        return self.rows * self.length


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


def trainable_parameters(shape: ModelShape, method: Method, rank: int = 16) -> int:
    """Parameters that learn."""
    match method:
        case "full":
            return shape.parameters
        case "prefix":
            return VIRTUAL_TOKENS * 2 * shape.layers * shape.kv_width  # keys and values in front of every layer's
        case "prompt":
            return VIRTUAL_TOKENS * shape.hidden
        case _:
            return shape.lora_parameters(rank)


def estimate(shape: ModelShape, method: Method, work: Workload) -> Memory:
    """Peak memory of one training step of `method`, in bytes per part, on each of the GPUs."""
    match method:
        case "prompt":  # virtual tokens stand in front of every row
            work = msgspec.structs.replace(work, length=work.length + VIRTUAL_TOKENS)
        case "dpo":  # a row is two: the chosen and the rejected reply
            work = msgspec.structs.replace(work, rows=2 * work.rows)
    memory = _step(shape, method, work)
    if method in ("grpo", "ppo"):
        memory = msgspec.structs.replace(memory, update=_rollout_bytes(shape, method, work))
    if method == "ppo":  # the reward model, as large as the policy, stays beside it
        memory = msgspec.structs.replace(memory, weights=memory.weights + shape.parameters * _width(work))
    return memory if work.ranks == 1 else _sharded(memory, shape, method, work)


def _step(shape: ModelShape, method: Method, work: Workload) -> Memory:
    trainable, tokens = trainable_parameters(shape, method, work.rank), work.tokens
    layer = activation_bytes(shape, method, work.precision, work.rank) * tokens
    if shape.eager:  # capped scores in the run's precision, attention weights in fp32 and cast back
        layer += 8 * shape.heads * work.length * tokens
    if method == "prefix":
        layer += _prefix_bytes(shape, work)
    casts = _cast_bytes(shape, method, work)
    ends = _end_bytes(shape, method, work)
    backward = _backward_bytes(shape, method, work)
    logits = _logit_bytes(shape, method, work)
    if work.checkpointing:  # each layer's input is kept; one layer at a time is computed again
        activations = shape.layers * shape.hidden * _residual_width(method, work) * tokens + ends
        backward += layer + casts // shape.layers
        logits = max(logits, casts + _forward_logit_bytes(shape, method, work))  # the casts last through the forward
    else:
        activations = shape.layers * layer + casts + ends
    return Memory(
        weights=_weight_bytes(shape, method, work) + (0 if method == "full" else 4 * trainable),
        gradients=4 * trainable,  # parameters that learn are fp32, whatever the precision
        optimizer=8 * trainable,  # AdamW: two moments
        activations=activations,
        logits=logits,
        temporary=backward,
        update=_update_bytes(shape, work) if method == "full" else 0,
    )


def _update_bytes(shape: ModelShape, work: Workload) -> int:
    """The embedding's gradient; beside it that of the head it is tied to, and, laid out another way, their sum."""
    matrices = 1 if not shape.tied else 2 if work.precision == "bf16" else 3
    return 4 * shape.vocabulary * shape.hidden * matrices


def activation_bytes(shape: ModelShape, method: Method, precision: Precision, rank: int) -> int:
    """Bytes per token that autograd keeps for one layer, with fused attention (no matrix of attention weights).

    After Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198), counted anew for gated blocks with RMS norms.
    """
    width = 4 if precision == "fp32" else 2
    fast_norms = shape.family in FAST_NORMS
    kept = 2 if fast_norms and width == 2 and method != "full" else 4  # the engine's keep their input as it came
    norms = kept * shape.norm_width + 8  # others in fp32, in which all compute; and its scale
    attention = width * 2 * (shape.query_width + shape.kv_width) + 4 * shape.heads  # q, k, v, output; log-sum-exp
    mlp = 3 * width * shape.ffn_width  # gate, its activation, up
    frozen = norms + attention + mlp
    if shape.fused:  # the value is a view that keeps query and key as they were before rotation
        frozen += width * (shape.query_width + shape.kv_width)
    if method in ("prefix", "prompt"):
        return frozen  # a product with a frozen matrix keeps nothing
    if method == "full":
        normed = 0 if fast_norms else 4 * shape.norm_width  # a trained norm keeps what it scales
        if width == 4:
            return frozen + normed + width * (2 * shape.hidden + shape.ffn_width)
        # Under autocast each of q, k, v and gate, up casts the norm's output for itself.
        return frozen + normed + width * (5 * shape.hidden + shape.ffn_width)
    low_rank = width * rank * shape.linear_layers // shape.layers
    if method == "qlora" and width == 2:  # PEFT casts each adapted layer's input for itself
        return frozen + low_rank + 2 * shape.linear_inputs // shape.layers
    return frozen + low_rank + width * (2 * shape.hidden + shape.ffn_width)  # of q/k/v, of gate/up, of down


def _prefix_bytes(shape: ModelShape, work: Workload) -> int:
    """What a prefix adds to a layer: its keys and values, a mask, and with a mask keys are repeated for their heads."""
    reach = work.length + VIRTUAL_TOKENS
    width = _width(work)
    keys = 2 * width * work.rows * (shape.query_width * reach - shape.kv_width * work.length)
    return keys + width * work.tokens * reach


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


def _fast_lora(method: Method) -> bool:
    """Whether the engine's own LoRA layer runs: it takes any but a 4-bit base."""
    return method in ("lora", "dpo", "grpo", "ppo")


def _width(work: Workload) -> int:
    return 4 if work.precision == "fp32" else 2


def _residual_width(method: Method, work: Workload) -> int:
    """Bytes of a number in the residual stream: fp32 where the embedding is."""
    return 4 if method == "full" else _width(work)


def _weight_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    if method == "full":
        return 4 * shape.parameters
    if method != "qlora":
        return shape.parameters * _width(work)
    return round(shape.linear_weights * NF4_BITS / 8) + (shape.parameters - shape.linear_weights) * _width(work)


def _cast_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    """Copies of weights that learn, kept for the backward pass: autocast's in bf16, and LoRA's scaled B."""
    if work.precision == "bf16":
        return 2 * (shape.linear_weights if method == "full" else trainable_parameters(shape, method, work.rank))
    return 4 * work.rank * shape.linear_outputs if _fast_lora(method) else 0


def _end_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    """Kept past the last layer: the final norm's input and output, and the hidden states that the head reads."""
    width = _residual_width(method, work)
    if shape.family in FAST_NORMS:
        norm = work.tokens * shape.hidden * width
    else:
        norm = work.tokens * shape.hidden * (8 if method == "full" else 4)
    if method == "prompt":  # the embeddings without the virtual tokens, and the last states without theirs
        norm += 2 * work.tokens * shape.hidden * width
    return norm + _supervised(work) * shape.hidden * width


def _chunk(shape: ModelShape, work: Workload) -> int:
    """Logits that the engine's loss holds at once."""
    return min(_supervised(work) * shape.vocabulary, max(CHUNK_LOGITS, shape.vocabulary))


def _forward_logit_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    """Logits, and in fp32 their softmax; a frozen head's loss makes its gradient here, too."""
    logits = _chunk(shape, work)
    if method != "full":
        width, softmax = _width(work), 4 * logits
        if work.device == "cpu":  # a part at a time, which softmax turns to fp32 in a copy of its own
            softmax = (4 if width == 4 else 8) * min(logits, CACHED_LOGITS)
        return width * logits + softmax + _supervised(work) * shape.hidden * width
    return 8 * logits + (2 * shape.vocabulary * shape.hidden if work.precision == "bf16" else 0)


def _logit_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    """The fuller of the head's two passes."""
    if method != "full":
        return _forward_logit_bytes(shape, method, work)
    logits, width = _chunk(shape, work), _width(work)
    matrix = shape.vocabulary * shape.hidden
    casts = 2 * matrix if width == 2 else 0
    own = 4 * logits + 4 * matrix if width == 4 else 6 * matrix  # the matrix' own gradient, and its cast to fp32
    return max(casts + 12 * logits, own)  # log-softmax, its gradient and the logits' gradient


def _backward_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    """The widest moment of a layer's backward pass: feed-forward gradients beside the residual stream's."""
    width = _width(work)
    # A frozen product leaves its input's gradient beside those of its factors; autocast casts gradients to and fro.
    wide = 1 if _fast_lora(method) or (width == 4 and method in ("full", "qlora")) else 3
    gradients = work.tokens * (wide * width * shape.ffn_width + 2 * _residual_width(method, work) * shape.hidden)
    if method == "full" and shape.tied:  # the head's gradient waits for the embedding's
        gradients += 4 * shape.vocabulary * shape.hidden
    return gradients + (shape.largest_matrix * width if method == "qlora" else 0)  # one matrix dequantized


def _rollout_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    """Before the gradient: replies are sampled with a cache of keys and values, then read again without a gradient."""
    width = _width(work)
    layer = 4 * width * (shape.ffn_width + shape.hidden)  # of a token, where nothing is kept
    rows = max(1, min(work.rollouts, SAMPLED_ROWS, SAMPLED_TOKENS // work.length))
    cache = rows * work.length * 2 * shape.kv_width * shape.layers * width
    prompts = rows * (work.length - round(work.length * work.supervised_share))
    sampling = cache + max(prompts * layer, rows * shape.vocabulary * 12)  # the last logits, sorted out in fp32
    read = msgspec.structs.replace(
        work, rows=max(1, min(work.rollouts, READ_TOKENS // work.length)), checkpointing=False
    )
    reading = read.tokens * shape.hidden * 4 + max(read.tokens * layer, _forward_logit_bytes(shape, method, read))
    return max(sampling, reading)


def _sharded(memory: Memory, shape: ModelShape, method: Method, work: Workload) -> Memory:
    """On each of `work.ranks` GPUs: a share of what is held, and two layers at once gathered whole (FSDP2)."""
    held = (memory.weights, memory.gradients, memory.optimizer)
    weights, gradients, optimizer = (-(-part // work.ranks) for part in held)
    layer = shape.linear_weights // shape.layers * (4 if method == "full" else _width(work))
    return msgspec.structs.replace(
        memory,
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=memory.activations + 2 * layer,  # the one that computes and the one fetched ahead
        temporary=memory.temporary + (layer if method == "full" else 0),  # its gradient before it is scattered
    )


def _supervised(work: Workload) -> int:
    return max(1, round(work.tokens * work.supervised_share))
