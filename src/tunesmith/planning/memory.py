"""How much memory a method needs: the field's rule of thumb, and an analytic count from the architecture alone.

The count adds what autograd keeps for a Llama-like block (checked in the tests against what PyTorch saves, to the
byte) to weights, gradients, optimizer state and the head's logits, for the engine's own way of training: full
fine-tuning wholly in the run's precision, adapters in fp32, logits in chunks over supervised tokens only.
It costs microseconds; other block designs (mixtures of experts, state spaces) are approximated.
"""

from typing import Literal

import msgspec
import numpy as np
from msgspec import Struct

from tunesmith.planning.shapes import ModelShape

Method = Literal["full", "lora", "qlora"]
Precision = Literal["fp32", "bf16"]

RULE_OF_THUMB: dict[Method, tuple[tuple[float, float], ...]] = {
    "full": ((1, 8), (7, 56), (13, 104), (70, 560)),
    "lora": ((1, 5), (7, 18), (13, 32), (70, 160)),
    "qlora": ((1, 3), (7, 8), (13, 14), (70, 48)),
}
"""Billions of parameters → GB, as the field quotes them (LoRA at rank 16, QLoRA with a 4-bit base)."""

NF4_BITS = 4.127
"""Bits per weight of NF4 with double quantization: 4 + 8/64 + 32/(64·256) (https://arxiv.org/abs/2305.14314, §3)."""

CHUNK_LOGITS = 2**24
"""Logits that the engine's loss holds at once."""

RESERVED_BYTES = 1_000_000_000
"""Of a GPU's memory: the CUDA context and the libraries' workspaces."""

USABLE_SHARE = 0.95
"""Of what is left: the caching allocator's fragmentation."""


LARGEST_MICRO_BATCH = 64
"""Where looking for more ends: larger micro-batches no longer make a GPU faster."""


class Memory(Struct, frozen=True):
    """Bytes at the peak of a training step; `logits` and `temporary` peak at different moments."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    temporary: int

    @property
    def total(self) -> int:
        """The peak: everything held throughout, and the larger of the two momentary parts."""
        return self.weights + self.gradients + self.optimizer + self.activations + max(self.logits, self.temporary)


class Workload(Struct, frozen=True):
    """What one forward and backward pass holds: `rows` of `length` tokens, a share of which is supervised."""

    rows: int
    length: int
    supervised_share: float = 0.5
    precision: Precision = "bf16"
    rank: int = 16
    checkpointing: bool = False

    @property
    def tokens(self) -> int:
        """Padded tokens in the micro-batch."""
        return self.rows * self.length


def rule_of_thumb(method: Method, parameters: int) -> float:
    """GB by the field's rule of thumb: its table, straight lines between the rows, in proportion outside them."""
    sizes, gigabytes = zip(*RULE_OF_THUMB[method], strict=True)
    billions = parameters / 1e9
    if billions < sizes[0]:
        return float(gigabytes[0] * billions / sizes[0])
    if billions > sizes[-1]:
        return float(gigabytes[-1] * billions / sizes[-1])
    return float(np.interp(billions, sizes, gigabytes))


def estimate(shape: ModelShape, method: Method, work: Workload) -> Memory:
    """Peak memory of one training step of `method`, in bytes per part."""
    width = 4 if work.precision == "fp32" else 2
    trainable = shape.parameters if method == "full" else shape.lora_parameters(work.rank)
    trained_width = width if method == "full" else 4  # the adapter's parameters stay in fp32
    layer = activation_bytes(shape, method, work.precision, work.rank) * work.tokens
    if work.checkpointing:  # each layer's input is kept; one layer at a time is recomputed
        activations = shape.layers * shape.hidden * width * work.tokens + layer
    else:
        activations = shape.layers * layer
    return Memory(
        weights=_weight_bytes(shape, method, width),
        gradients=trainable * trained_width,
        optimizer=2 * trainable * trained_width,  # AdamW: two moments
        activations=activations,
        logits=_logit_bytes(shape, method, width, round(work.tokens * work.supervised_share)),
        temporary=_temporary_bytes(shape, method, width, work.tokens),
    )


def activation_bytes(shape: ModelShape, method: Method, precision: Precision, rank: int) -> int:
    """Bytes per token that autograd keeps for one layer, with fused attention (no matrix of attention weights).

    After Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198), counted anew for gated blocks with RMS norms.
    """
    width = 4 if precision == "fp32" else 2
    norms = 2 * (4 * shape.hidden + 4)  # RMS norms compute in fp32 and keep their input and its scale
    attention = width * 2 * (shape.query_width + shape.kv_width) + 4 * shape.heads  # q, k, v, output; log-sum-exp
    mlp = 3 * width * shape.ffn_width  # gate, its activation, up
    inputs = width * (2 * shape.hidden + shape.ffn_width)  # of q/k/v, of gate/up, of down
    if method == "full":
        return norms + 2 * width * shape.hidden + attention + mlp + inputs  # a trained norm keeps its output too
    low_rank = 4 * rank * shape.linear_layers // shape.layers
    if width == 2:  # PEFT casts each adapted layer's input to the adapter's fp32, every time anew
        inputs = 4 * shape.linear_inputs // shape.layers
    return norms + attention + mlp + inputs + low_rank


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


def _weight_bytes(shape: ModelShape, method: Method, width: int) -> int:
    if method != "qlora":
        return shape.parameters * width
    return round(shape.linear_weights * NF4_BITS / 8) + (shape.parameters - shape.linear_weights) * width


def _logit_bytes(shape: ModelShape, method: Method, width: int, supervised: int) -> int:
    """The head's output in the run's precision and in fp32, and what its backward adds; the hidden states' gradient."""
    logits = min(supervised * shape.vocabulary, max(CHUNK_LOGITS, shape.vocabulary))
    copies = width + 4 + (4 + width if method == "full" else width)
    return logits * copies + supervised * shape.hidden * width


def _temporary_bytes(shape: ModelShape, method: Method, width: int, tokens: int) -> int:
    """The widest moment of a layer's backward pass: three feed-forward gradients beside the residual stream's."""
    gradients = tokens * width * (3 * shape.ffn_width + 2 * shape.hidden)
    return gradients + (shape.largest_matrix * width if method == "qlora" else 0)  # one matrix dequantized
