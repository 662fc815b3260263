"""Attention over a forest of segments: each token sees its ancestors and what stands before it in its own segment.

Registered with transformers as an attention implementation, so every architecture that takes its attention from
there runs on a forest unchanged; without a forest it is `sdpa`. On a CPU it is compiled C where the processor is one
that this was written for (`cpu_attention`). On others torch's products go block by block, and the weights of blocks
with few keys are kept for the backward pass, those of others computed anew: several times faster on rows of a few
hundred tokens than torch's own kernel, whose backward pass does not use the matrix units in bf16. On a GPU one
generated kernel does that (`forest_mask`).
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tunesmith.training.batches import MICRO_BATCH_TOKENS, E, MicroBatch, forest_batches, micro_batches
from tunesmith.training.cpu_attention import attend as attend_compiled
from tunesmith.training.cpu_attention import attend_backward, available
from tunesmith.training.cpu_kernels import causal_softmax, softmax_backward
from tunesmith.training.forest_mask import attend, forest_mask
from tunesmith.training.shared_prefix import Forest, plant
from tunesmith.training.stretches import Stretch, whole_forest

if TYPE_CHECKING:
    from tunesmith.models.load import Model

log = logging.getLogger(__name__)

NAME = "forest"
"""What `model.set_attn_implementation` calls it."""

PROBE_TOKENS = {"cpu": 16, "cuda": 120}
"""That the rows share with which a model is asked whether it can be run on a forest: enough to be shared, and on a GPU,
with their own, more than one block of its mask."""

PROBE_TOLERANCE = 0.05
"""Of the largest logit: bf16 rounding stays below it, a token that sees the wrong ones does not."""

BLOCK_QUERIES = 128
"""Queries of one block: a block's keys end where its queries do, so smaller blocks compute less above the diagonal."""

KEPT_KEYS = 512
"""Keys of a block at most for its weights to be kept: 4% of a step's time for 7% of its peak memory on rows of up to as
many tokens, and less on longer ones. Where the layer's own matrices learn, none are kept: memory is short there."""


def forest_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    stretch: Stretch | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface; `query` (1, heads, tokens, width), result (1, tokens, heads, width)."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if isinstance(attention_mask, BlockMask):
        mixed = attend(query.to(value.dtype), key.to(value.dtype), value, attention_mask, scale)
        return mixed.transpose(1, 2), None
    if stretch is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    # Under autocast rotary angles in fp32 widen queries and keys again; sdpa would narrow them, too.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if available(query[0], key[0], value[0]):
        compiled: Tensor = _CompiledAttention.apply(query[0], key[0], value[0], stretch, scale)  # type: ignore[no-untyped-call]
        return compiled.unsqueeze(0), None
    kept_keys = 0 if next(module.parameters()).requires_grad else KEPT_KEYS
    result: Tensor = _ForestAttention.apply(query[0], key[0], value[0], stretch, scale, kept_keys)  # type: ignore[no-untyped-call]
    return result.unsqueeze(0), None


AttentionInterface.register(NAME, forest_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def forest_arguments(stretch: Stretch | None, input_ids: Tensor) -> dict[str, Any]:
    """What a model is called with beside `input_ids` for `forest_attention` to see the stretch's forest."""
    if stretch is None:
        return {}
    position_ids = torch.from_numpy(stretch.position_ids).to(input_ids.device).unsqueeze(0)
    if input_ids.is_cuda:
        return {"position_ids": position_ids, "attention_mask": forest_mask(stretch.forest, input_ids.device)}
    return {
        "position_ids": position_ids,
        "attention_mask": torch.empty(1, 1, 1, 1, device=input_ids.device),  # four axes: transformers makes no mask
        "stretch": stretch,
    }


def in_forest(arguments: Mapping[str, Any]) -> bool:
    """Whether a layer is called with these so that its attention is a forest's."""
    return arguments.get("stretch") is not None or isinstance(arguments.get("attention_mask"), BlockMask)


def use_forest_attention(model: "Model") -> bool:
    """Switch `model` to forest attention if it then computes what it did before.

    The model itself is asked, with three short rows that begin alike. A model that drops out activations (shared
    tokens would share what is dropped) or learns its own prefix is left alone.
    """
    config = model.config.get_text_config()
    if config._attn_implementation == NAME:
        return True
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if (
        config._attn_implementation != "sdpa"
        or model.device.type not in ("cpu", "cuda")
        or _drops_out(model, config)
        or (isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning)
    ):
        return False
    rows = _probe_rows(min(PROBE_TOKENS[model.device.type], _window(config) - 4))
    expected = _probe(model, rows, None)
    base.set_attn_implementation(NAME)
    found = _probe(model, rows, plant(rows))
    if expected is not None and found is not None:
        difference, largest = (found - expected).abs().max(), expected.abs().max()
        if difference <= PROBE_TOLERANCE * largest:
            return True
    base.set_attn_implementation("sdpa")
    return False


def longest_planted(model: "Model") -> float:
    """The longest row that `model` may get in a forest: 0 until `use_forest_attention` has switched it."""
    config = model.config.get_text_config()
    return _window(config) if config._attn_implementation == NAME else 0


def planted_where_possible(
    model: "Model", examples: Sequence[E], token_budget: int = MICRO_BATCH_TOKENS
) -> list[MicroBatch[E]]:
    """Micro-batches of `examples` as forests where `model` takes rows so long in them, padded otherwise."""
    longest = max(len(row.tokens) for example in examples for row in example.rows)
    if longest > longest_planted(model):
        return micro_batches(examples, token_budget, model.device)
    return forest_batches(examples, token_budget)


def _window(config: PretrainedConfig) -> float:
    """Tokens that the model's most short-sighted layer sees."""
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((window for window in windows if window), default=math.inf)


def _drops_out(model: nn.Module, config: PretrainedConfig) -> bool:
    rates = [getattr(config, name, 0.0) for name in ("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop")]
    return any(rates) or any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())


def _probe_rows(alike: float) -> list[NDArray[np.int32]]:
    """Three rows that begin with so many tokens `alike`, and add at most 4."""
    shared = [index % 12 for index in range(int(alike))]
    return [np.array([*shared, *own], dtype=np.int32) for own in ([1, 2, 3], [4, 5], [6, 7, 8, 9])]


@torch.no_grad()
def _probe(model: "Model", rows: Sequence[NDArray[np.int32]], forest: Forest | None) -> Tensor | None:
    """Logits after every token of each of `rows`, (tokens, vocabulary); None when the model cannot be called so.

    Every token, because one that looks at its neighbour in the sequence errs only where a row leaves its forerunner.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        if forest is None:
            each = [torch.from_numpy(row.astype(np.int64)).to(device).unsqueeze(0) for row in rows]
            return torch.cat([model(input_ids=row, use_cache=False).logits[0] for row in each]).float()
        ids = torch.from_numpy(forest.tokens.astype(np.int64)).to(device).unsqueeze(0)
        logits: Tensor = model(input_ids=ids, use_cache=False, **forest_arguments(whole_forest(forest), ids)).logits[0]
        return logits[torch.from_numpy(np.concatenate(forest.places)).to(device)].float()
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, NotImplementedError) as error:
        if device.type == "cuda" and forest is not None:
            cause = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("rows are padded, which takes longer: no kernel could be made for %s (%s)", device, cause)
        return None  # an architecture that this attention does not know: it trains the plain way
    finally:
        model.train(training)


class _CompiledAttention(torch.autograd.Function):
    """softmax(scale · q kᵀ) v; the weights are made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, stretch: Stretch, scale: float) -> Tensor:
        key, value = stretch.seen(key, value)
        output, softmax = attend_compiled(query, key, value, stretch.table, scale)
        ctx.save_for_backward(query, key, value, softmax)
        ctx.stretch, ctx.scale = stretch, scale
        return output  # (tokens, heads, width)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, softmax = ctx.saved_tensors
        by_query, *sums = attend_backward(upstream[0], query, key, value, softmax, ctx.stretch.table, ctx.scale)
        by_key, by_value = ctx.stretch.own(*sums)
        return by_query.transpose(0, 1), by_key.to(key.dtype), by_value.to(value.dtype), None, None


class _ForestAttention(torch.autograd.Function):
    """softmax(scale · q kᵀ) v per block, heads of one key group together so that keys are never repeated."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, stretch: Stretch, scale: float, kept_keys: int
    ) -> Tensor:
        heads, tokens, _ = query.shape
        key, value = stretch.seen(key.contiguous(), value.contiguous())
        output = query.new_empty(tokens, heads, value.shape[-1])
        kept: list[Tensor | None] = []
        kept_keys = kept_keys if any(ctx.needs_input_grad) else 0
        for queries, keys in stretch.blocks(BLOCK_QUERIES):
            weights = _weights(query, key, queries, keys, scale)  # (groups, heads in group * queries, keys)
            kept.append(weights if weights.shape[-1] <= kept_keys else None)
            mixed = torch.bmm(weights, _gather(value, keys))
            output[queries] = _by_token(mixed, queries)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.stretch, ctx.scale = stretch, scale
        return output  # (tokens, heads, width)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        groups = key.shape[0]
        # Laid out like the projections that made them, (tokens, heads, width), for the products that follow.
        by_query = query.new_empty(query.shape[1], query.shape[0], query.shape[2])
        by_key = torch.zeros(key.shape, dtype=torch.float32, device=key.device)
        by_value = torch.zeros(value.shape, dtype=torch.float32, device=value.device)
        for (queries, keys), known in zip(ctx.stretch.blocks(BLOCK_QUERIES), kept, strict=True):
            weights = _weights(query, key, queries, keys, ctx.scale) if known is None else known
            by_output = _by_group(upstream[0][queries].transpose(0, 1), groups)
            by_weights = torch.bmm(by_output, _gather(value, keys).transpose(1, 2))
            by_logits = softmax_backward(by_weights, weights, ctx.scale)
            by_query[queries] = _by_token(torch.bmm(by_logits, _gather(key, keys)), queries)
            chosen = _by_group(query[:, queries], groups)
            _scatter_add(by_key, torch.bmm(by_logits.transpose(1, 2), chosen), keys)
            _scatter_add(by_value, torch.bmm(weights.transpose(1, 2), by_output), keys)
        by_key, by_value = ctx.stretch.own(by_key, by_value)
        return by_query.transpose(0, 1), by_key.to(key.dtype), by_value.to(value.dtype), None, None, None


def _weights(query: Tensor, key: Tensor, queries: slice, keys: list[slice], scale: float) -> Tensor:
    chosen = _by_group(query[:, queries], key.shape[0])  # (groups, heads in group * queries, width)
    logits = torch.bmm(chosen, _gather(key, keys).transpose(1, 2))  # (groups, heads in group * queries, keys)
    return causal_softmax(logits, queries.stop - queries.start, scale)


def _by_group(heads: Tensor, groups: int) -> Tensor:
    """(heads, queries, width) → (groups, heads in group * queries, width)."""
    return heads.reshape(groups, -1, heads.shape[-1])


def _by_token(grouped: Tensor, queries: slice) -> Tensor:
    """(groups, heads in group * queries, width) → (queries, heads, width)."""
    count = queries.stop - queries.start
    return grouped.view(-1, count, grouped.shape[-1]).transpose(0, 1)


def _gather(states: Tensor, keys: list[slice]) -> Tensor:
    return states[:, keys[0]] if len(keys) == 1 else torch.cat([states[:, part] for part in keys], 1)


def _scatter_add(target: Tensor, values: Tensor, keys: list[slice]) -> None:
    start = 0
    for part in keys:
        size = part.stop - part.start
        target[:, part] += values[:, start : start + size]
        start += size
