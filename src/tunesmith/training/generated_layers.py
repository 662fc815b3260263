"""A decoder layer on a GPU as one generated program, forward and backward.

A layer is a hundred operations. On a few thousand tokens a GPU computes them faster than Python starts them;
TorchInductor (https://docs.pytorch.org/docs/stable/torch.compiler.html) starts them from one place and joins what
stands between the matrix products. A program is made for a kind of layer and any number of tokens; all layers share it.
Making it takes a minute, so only long runs have it made, and only for training.
"""

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers.activations import SiLUActivation

from tunesmith.training.fast_lora import FastLinear
from tunesmith.training.forest_mask import KERNEL
from tunesmith.training.fused import compiled, rms_norm, rotate, swiglu

WORTH_STEPS = 20_000
"""Steps times layers from which the minute pays: an H100 saved 4.5 ms a layer and step where it waited for Python."""


class Projection(NamedTuple):
    """A linear layer: W (out, in) and its bias; with an adapter also A (r, in), B (out, r) and the scale of their
    product."""

    weight: Tensor
    bias: Tensor | None = None
    down: Tensor | None = None
    up: Tensor | None = None
    scaling: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """W·x + b + s·B·A·x, (..., in) → (..., out)."""
        output = F.linear(x, self.weight, self.bias)
        if self.down is None or self.up is None:
            return output
        return output + F.linear(F.linear(x, self.down), self.up * self.scaling)


class LayerWeights(NamedTuple):
    """What a layer of Llama's kind consists of; the norms of queries and keys are Qwen3's."""

    before_attention: Tensor
    query: Projection
    key: Projection
    value: Projection
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Projection
    before_mlp: Tensor
    gate: Projection
    up: Projection
    down: Projection


def is_worth_generating(steps: int, layers: int) -> bool:
    """Whether `steps` of training a model of `layers` on a GPU gain more than the program takes to make."""
    return steps * layers >= WORTH_STEPS


def use_generated_layer(layer: Any) -> None:
    """Train `layer`, a decoder layer that `fast_layers` knows, as one program wherever it can be."""
    layer.forward = functools.partial(_forward, layer)


def decoder_layer(
    hidden: Tensor,
    cosine: Tensor,
    sine: Tensor,
    mask: BlockMask,
    weights: LayerWeights,
    attention: Any,
    norm: Any,
) -> Tensor:
    """Hidden states (1, tokens, hidden) after the layer; the angles are (1, tokens, head_dim)."""
    heads = (*hidden.shape[:-1], -1, attention.head_dim)
    normed = rms_norm(hidden, weights.before_attention, norm.variance_epsilon)
    query, key, value = (part(normed).view(heads) for part in (weights.query, weights.key, weights.value))
    if weights.query_norm is not None and weights.key_norm is not None:
        query = rms_norm(query, weights.query_norm, norm.variance_epsilon)
        key = rms_norm(key, weights.key_norm, norm.variance_epsilon)
    query, key = (rotate(x, cosine.unsqueeze(2), sine.unsqueeze(2)).to(value.dtype) for x in (query, key))
    mixed: Any = flex_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2),
        block_mask=mask, scale=attention.scaling, enable_gqa=True, kernel_options=KERNEL,
    )  # fmt: skip
    states = hidden + weights.output(mixed.transpose(1, 2).flatten(2))
    normed = rms_norm(states, weights.before_mlp, norm.variance_epsilon)
    return states + weights.down(swiglu(weights.gate(normed), weights.up(normed)))


def _forward(layer: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
    mask = kwargs.get("attention_mask")
    trains = torch.is_grad_enabled() and isinstance(mask, BlockMask) and not layer.gradient_checkpointing
    if not trains or (weights := layer_weights(layer)) is None:
        output: Tensor = type(layer).forward(layer, hidden_states, **kwargs)
        return output
    if not hidden_states.requires_grad:
        # Of the first layer nobody asks the input's gradient. Given it, all layers are of one kind.
        hidden_states = hidden_states.detach().requires_grad_()
    cosine, sine = kwargs["position_embeddings"]
    return compiled(decoder_layer)(hidden_states, cosine, sine, mask, weights, layer.self_attn, layer.input_layernorm)


def layer_weights(layer: Any) -> LayerWeights | None:
    """Those of `layer`, or None where a part of it is neither a plain linear layer nor one with a plain adapter."""
    attention, mlp = layer.self_attn, layer.mlp
    if type(mlp.act_fn) is not SiLUActivation:
        return None
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    modules = [*(getattr(attention, name) for name in names), mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    query, key, value, output, gate, up, down = (_projection(module) for module in modules)
    if not (query and key and value and output and gate and up and down):
        return None
    norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    query_norm, key_norm = (None if norm is None else norm.weight for norm in norms)
    before_attention, before_mlp = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
    return LayerWeights(
        before_attention, query, key, value, query_norm, key_norm, output, before_mlp, gate, up, down
    )  # fmt: skip


def _projection(layer: Any) -> Projection | None:
    if type(layer) is nn.Linear:
        return Projection(layer.weight, layer.bias)
    if type(layer) is not FastLinear:
        return None
    parts: Any = layer
    base, adapter = parts.base_layer, layer.plain_adapter()
    if adapter is not None:
        down, up = parts.lora_A[adapter], parts.lora_B[adapter]
        return Projection(base.weight, base.bias, down.weight, up.weight, parts.scaling[adapter])
    return Projection(base.weight, base.bias) if layer.disable_adapters and not layer.merged else None
