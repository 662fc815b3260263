"""What one forward and backward pass holds beside the weights: what autograd keeps, and what comes on top for a moment.

A Llama-like block is counted tensor by tensor, with fused attention (no matrix of attention weights); each term says
which tensor it is. After Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198), counted anew for gated blocks with
RMS norms and for adapters. All sizes are bytes.
"""

import msgspec

from tunesmith.planning.shapes import ModelShape
from tunesmith.planning.workload import Method, Workload, trainable_parameters

FAST_NORMS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Architectures whose norms and feed-forward gates are the engine's own (`training/fast_layers.py`)."""

CHUNK_LOGITS = 2**24
"""Logits that the engine's loss holds at once."""

CACHED_LOGITS = 2**20
"""Of these, those turned to fp32 at once on a CPU."""

KEPT_BYTES = 2**27
"""Of logits' gradients that a trained head keeps, at most: all of a micro-batch on a CPU (`training/trained_head.py`
reads it here, since this counts without torch)."""

PRODUCT_ROWS = 1024
"""Of a large matrix' gradient, how many are computed at once: in another precision than the gradient's they are held
twice (`training/gradients.py` reads it here, too)."""

SAMPLED_ROWS, SAMPLED_TOKENS = 64, 16384
"""Replies, and cells of their cache, that are sampled at once."""

READ_TOKENS = 4096
"""Tokens of replies that are read at once for their log-probabilities."""


def activation_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    """Bytes per token that autograd keeps for one layer."""
    width, fast = work.width, fast_norms(shape, method, work)
    kept = 2 if fast and width == 2 and method != "full" else 4  # the engine's keep their input as it came
    norms = kept * shape.norm_width + 8  # others in fp32, in which all compute; and its scale
    attention = width * 2 * (shape.query_width + shape.kv_width) + 4 * shape.heads  # q, k, v, output; log-sum-exp
    mlp = (2 if fast else 3) * width * shape.ffn_width  # gate, up; the engine's own computes gate's activation again
    frozen = norms + attention + mlp
    if shape.fused:  # the value is a view that keeps query and key as they were before rotation
        frozen += width * (shape.query_width + shape.kv_width)
    if method in ("prefix", "prompt"):
        return frozen  # a product with a frozen matrix keeps nothing
    if shape.fused and not (method == "qlora" and width == 2):
        frozen += width * shape.query_width  # attention's output lies as its query does, and is copied for o_proj
    if method == "full":
        normed = 0 if fast else residual_width(method, work) * shape.norm_width  # a trained norm keeps what it scales
        if width == residual_width(method, work):
            return frozen + normed + width * (2 * shape.hidden + shape.ffn_width)
        # Under autocast each of q, k, v and gate, up casts the norm's output for itself, the engine's gate and up once.
        casts = 4 if fast else 5
        return frozen + normed + width * (casts * shape.hidden + shape.ffn_width)
    low_rank = width * work.rank * shape.linear_layers // shape.layers
    if method == "qlora" and width == 2:  # PEFT casts each adapted layer's input for itself
        return frozen + low_rank + 2 * shape.linear_inputs // shape.layers
    return frozen + low_rank + width * (2 * shape.hidden + shape.ffn_width)  # of q/k/v, of gate/up, of down


def prefix_bytes(shape: ModelShape, work: Workload) -> int:
    """What a prefix adds to a layer: its keys and values, a mask, and with a mask keys are repeated for their heads.

    Those of one head for all queries are no copies: they are read again.
    """
    reach = work.length + work.virtual_tokens
    width = work.width
    one_head = shape.kv_width == shape.query_width // shape.heads
    repeated = shape.kv_width if one_head else shape.query_width
    keys = 2 * width * work.rows * (repeated * reach - shape.kv_width * work.length)
    return keys + width * work.tokens * reach


def eager_bytes(shape: ModelShape, work: Workload) -> int:
    """Of a layer without fused attention: capped scores in the run's precision, weights in fp32 and cast back."""
    return 8 * shape.heads * work.length * work.tokens


def mask_bytes(work: Workload) -> int:
    """Without fused attention masks are matrices: one for all that came before, one for a window of it."""
    return 2 * work.width * work.length * work.tokens


def fast_norms(shape: ModelShape, method: Method, work: Workload) -> bool:
    """Whether norms are the engine's own: where each process holds the whole model, with no soft prompt on a GPU."""
    soft = method in ("prefix", "prompt") and work.device != "cpu"
    sharded = work.ranks > 1 and (method == "full" or work.sharded)
    return shape.family in FAST_NORMS and not sharded and not soft


def _fast_lora(method: Method) -> bool:
    """Whether the engine's own LoRA layer runs: it takes any but a 4-bit base."""
    return method in ("lora", "dpo", "grpo", "ppo")


def _fast_full(shape: ModelShape, method: Method, work: Workload) -> bool:
    """Whether trained feed-forward layers are the engine's own."""
    return method == "full" and work.device == "cpu" and fast_norms(shape, method, work)


def _keeps_slopes(shape: ModelShape, work: Workload) -> bool:
    """Whether a trained head keeps the gradients of its logits from its forward to its backward pass."""
    kept = work.supervised * shape.vocabulary * work.width
    return kept <= KEPT_BYTES and work.ranks == 1 and not shape.eager


def residual_width(method: Method, work: Workload) -> int:
    """Bytes of a number in the residual stream: fp32 where the embedding is, which sharding gathers in bf16."""
    return 4 if method == "full" and work.ranks == 1 else work.width


def cast_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    """Copies of weights that learn, kept for the backward pass: autocast's in bf16, and LoRA's scaled B."""
    if work.precision == "bf16":
        if method == "full" and work.ranks > 1:  # sharded ones are gathered in bf16
            return 0
        if method == "full":
            # On a CPU the engine's own feed-forward layers cast theirs again.
            anew = 3 * shape.hidden * shape.ffn_width * shape.layers if _fast_full(shape, method, work) else 0
            return 2 * (shape.linear_weights - anew)
        return 2 * trainable_parameters(shape, method, work.rank, work.virtual_tokens)
    return 4 * work.rank * shape.linear_outputs if _fast_lora(method) else 0


def end_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    """Kept past the last layer: the final norm's input and output, and the hidden states that the head reads."""
    width = residual_width(method, work)
    if fast_norms(shape, method, work):
        norm = work.tokens * shape.hidden * width
    else:
        norm = work.tokens * shape.hidden * (4 + width if method == "full" else 4)
    if method == "prompt":  # the embeddings without the virtual tokens, and the last states without theirs
        norm += 2 * work.tokens * shape.hidden * width
    return norm + work.supervised * shape.hidden * width


def norm_backward_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    """In a norm's backward pass: the gradient that came, and in fp32 two products, beside bf16 both factors, too."""
    came = residual_width(method, work)
    return work.tokens * shape.hidden * (came + (8 if came == 4 else 16))


def _chunk(shape: ModelShape, work: Workload) -> int:
    """Logits that the engine's loss holds at once."""
    return min(work.supervised, max(1, CHUNK_LOGITS // shape.vocabulary)) * shape.vocabulary


def forward_logit_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    """Logits, and in fp32 their softmax; the head's loss makes its gradient here, too, unless it is computed again."""
    logits = _chunk(shape, work)
    if method != "full" and not shape.eager:  # whose head's output is capped, too, and computed again
        # Softmax turns what is not fp32 into a copy of its own; on a CPU, a part at a time.
        at_once = min(logits, CACHED_LOGITS) if work.device == "cpu" else logits
        width = work.width
        softmax = (4 if width == 4 else 8) * at_once
        return width * logits + softmax + work.supervised * shape.hidden * width
    cast = work.width < residual_width(method, work)
    if method == "full" and _keeps_slopes(shape, work):
        logits, states = work.supervised * shape.vocabulary, work.supervised * shape.hidden
        casts = 2 * (shape.vocabulary * shape.hidden + states) if cast else 0
        at_once = min(logits, CACHED_LOGITS) if work.device == "cpu" else logits
        made = max((8 if cast else 4) * at_once, work.width * states)  # softmax, then what the head returns
        return work.width * logits + casts + made
    return 8 * logits + (2 * shape.vocabulary * shape.hidden if cast else 0)


def logit_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    """The fuller of the head's two passes."""
    if method == "full" and _keeps_slopes(shape, work):
        kept = work.supervised * (shape.vocabulary + 3 * shape.hidden)  # beside the states and their gradient as scaled
        parts = 6 * min(shape.vocabulary, PRODUCT_ROWS) * shape.hidden if work.width == 2 else 0
        return max(forward_logit_bytes(shape, method, work), work.width * kept + parts)
    capped = 4 * _chunk(shape, work) if shape.eager else 0  # what the cap is undone with
    if method != "full":
        again = 12 * _chunk(shape, work) + capped if shape.eager else 0
        return max(forward_logit_bytes(shape, method, work), again)
    logits, matrix = _chunk(shape, work), shape.vocabulary * shape.hidden
    several = logits < work.supervised * shape.vocabulary
    width = residual_width(method, work)
    summed = width * matrix if several else 0  # the matrix' gradient by the chunks before
    if work.width < width:
        # The cast matrix beside log-softmax, its gradient and the logits' gradient; or the gradient and its cast.
        return summed + max(2 * matrix + 12 * logits + capped, 6 * matrix)
    # The second chunk's sum is a new matrix: the first's gradient is a view, which autograd does not add to in place.
    return summed + max(12 * logits + capped, 4 * logits + width * matrix + summed)


def backward_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    """The widest moment of a layer's backward pass: feed-forward gradients beside the residual stream's."""
    width = work.width
    # Of a product and its two factors; what down's adapter or weight kept of the product is gone by then, where it has
    # one. Autocast casts gradients to and fro.
    casts = width < residual_width(method, work) or (width == 2 and method == "qlora")
    wide = 2 if _fast_lora(method) or (method in ("full", "qlora") and not casts) else 3
    residual = 2 * residual_width(method, work) * shape.hidden * work.tokens
    gradients = wide * width * shape.ffn_width * work.tokens + residual
    if shape.eager:  # of attention weights and of scores, when a layer's queries, keys, values and first norm are left
        left = 2 * width * (shape.query_width + shape.kv_width) + (4 + width) * shape.hidden
        gone = (activation_bytes(shape, method, work) - left) * work.tokens
        gradients = max(gradients, eager_bytes(shape, work) + residual - gone)
    if method == "full" and shape.tied and not _keeps_slopes(shape, work):  # its gradient waits for the embedding's
        gradients += residual_width(method, work) * shape.vocabulary * shape.hidden
    return gradients + (shape.largest_matrix * width if method == "qlora" else 0)  # one matrix dequantized


def update_bytes(shape: ModelShape, work: Workload) -> int:
    """The embedding's gradient, and beside it that of the head it is tied to, unless that is added at once.

    In fp32 the head's is a view, unless it is a sum of several chunks' already: their sum is a third matrix.
    """
    several = _chunk(shape, work) < work.supervised * shape.vocabulary
    matrices = 1 if not shape.tied or _keeps_slopes(shape, work) else 2 if work.precision == "bf16" or several else 3
    return residual_width("full", work) * shape.vocabulary * shape.hidden * matrices


def rollout_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    """Before the gradient: replies are sampled with a cache of keys and values, then read again without a gradient."""
    width = work.width
    wide = (
        3 if fast_norms(shape, method, work) else 4
    )  # gate, up, their product; the engine's own has it of gate's activation
    layer = width * (wide * shape.ffn_width + 4 * shape.hidden)  # of a token, where nothing is kept
    rows = max(1, min(work.own_rollouts, SAMPLED_ROWS, SAMPLED_TOKENS // work.length))
    cache = rows * work.length * 2 * shape.kv_width * shape.layers * width
    prompts = rows * (work.length - round(work.length * work.supervised_share))
    sampling = cache + max(prompts * layer, rows * shape.vocabulary * 16)  # the last logits, drawn from in fp64
    read = msgspec.structs.replace(
        work, rows=max(1, min(work.own_rollouts, READ_TOKENS // work.length)), checkpointing=False
    )
    reading = read.tokens * shape.hidden * 4 + max(read.tokens * layer, forward_logit_bytes(shape, method, read))
    return max(sampling, reading)
