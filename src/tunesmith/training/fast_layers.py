"""The layers of Llama-like decoders in fewer passes over memory, with the same numbers forward and backward.

Autograd takes an expression such as a norm apart, keeps every intermediate and walks it again; as one operation a
norm's backward pass takes a fifth of the time on a CPU. Projections that read the same input (q, k and v; gate and up)
share their adapters' passes over it, and their gradients of it are added up in place. Of the last layer, what comes
after attention is computed only where the loss reads.
On a GPU they are generated instead, as whole layers (`generated_layers`) or piece by piece (`fused`).
Only layers of transformers (5.24) that are known by name to compute exactly this are taken; all others stay.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor, nn
from transformers.activations import SiLUActivation

from tunesmith.training.fast_lora import project
from tunesmith.training.forest_attention import forest_attention, in_forest
from tunesmith.training.fused import compiled, rms_norm, rotate, swiglu
from tunesmith.training.generated_layers import is_worth_generating, use_generated_layer
from tunesmith.training.sharding import is_sharded

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")


def use_fast_layers(model: nn.Module, *, planted: bool, steps: int = 0) -> None:
    """Compute the known layers of `model` as here; its modules, its parameters and their names stay.

    A sharded one stays as it is; so does one on a GPU that is not `planted`: the forest's kernel shows whether kernels
    can be made there. `steps` are those that the model is to be trained for.
    """
    if is_sharded(model) or not (planted or next(model.parameters()).device.type == "cpu"):
        return
    computed_as = {
        f"{family}{layer}": forward
        for family in FAMILIES
        for layer, forward in (("RMSNorm", _norm), ("MLP", _feed_forward), ("Attention", _attention))
    }
    known = [module for module in model.modules() if type(module).__module__.startswith("transformers.models.")]
    for module in known:
        if (forward := computed_as.get(type(module).__name__)) is not None:
            module.forward = functools.partial(forward, module)
    layers = [module for module in known if type(module).__name__ in {f"{family}DecoderLayer" for family in FAMILIES}]
    for layer in layers:
        if next(layer.parameters()).is_cuda:
            if is_worth_generating(steps, len(layers)):
                use_generated_layer(layer)
        elif _is_last(layer):
            layer.forward = functools.partial(_last_layer, layer)


def _is_last(layer: Any) -> bool:
    attention = getattr(layer, "self_attn", None)
    return attention is not None and attention.layer_idx == attention.config.num_hidden_layers - 1


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    if hidden_states.is_cuda:
        return compiled(rms_norm)(hidden_states, module.weight, module.variance_epsilon)
    normed: Tensor = _RmsNorm.apply(hidden_states, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
    return normed


def _feed_forward(module: Any, x: Tensor) -> Tensor:
    gate, up = project(x, (module.gate_proj, module.up_proj))
    if type(module.act_fn) is not SiLUActivation:
        product = module.act_fn(gate) * up
    elif gate.is_cuda:
        product = compiled(swiglu)(gate, up)
    else:
        product = _SwiGlu.apply(gate, up)  # type: ignore[no-untyped-call]
    output: Tensor = module.down_proj(product)
    return output


def _attention(module: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """On a forest; without one (generation, padded rows) the module's own."""
    if args or not in_forest(kwargs) or kwargs.get("cache") is not None:
        output: tuple[Tensor, Tensor | None] = type(module).forward(module, *args, **kwargs)
        return output
    hidden, (cosine, sine) = kwargs["hidden_states"], kwargs["position_embeddings"]
    heads = (*hidden.shape[:-1], -1, module.head_dim)
    query, key, value = (x.view(heads) for x in project(hidden, (module.q_proj, module.k_proj, module.v_proj)))
    if hasattr(module, "q_norm"):
        query, key = module.q_norm(query), module.k_norm(key)
    turn: Any = compiled(rotate) if hidden.is_cuda else _Rotary.apply
    query, key = (turn(x, cosine.unsqueeze(2), sine.unsqueeze(2)) for x in (query, key))
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # (1, heads, tokens, width) each
    mask, stretch = kwargs.get("attention_mask"), kwargs.get("stretch")
    mixed, _ = forest_attention(module, query, key, value, mask, scaling=module.scaling, stretch=stretch)
    if (read := kwargs.get("read")) is not None:
        mixed = mixed.index_select(1, read)
    return module.o_proj(mixed.flatten(2)), None


def _last_layer(module: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
    """States where the stretch is read, and zeros elsewhere: of those tokens only the keys and values are of use."""
    stretch = kwargs.get("stretch")
    if stretch is None or stretch.read is None:
        output: Tensor = type(module).forward(module, hidden_states, **kwargs)
        return output
    mixed, _ = module.self_attn(hidden_states=module.input_layernorm(hidden_states), read=stretch.read, **kwargs)
    states = hidden_states.index_select(1, stretch.read) + mixed  # (1, read, hidden)
    states = states + module.mlp(module.post_attention_layernorm(states))
    return torch.zeros_like(hidden_states).index_copy(1, stretch.read, states)


class _RmsNorm(torch.autograd.Function):
    """w · x / rms(x) (https://arxiv.org/abs/1910.07467), in fp32 whatever the precision of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        inverse = square.div_(x.shape[-1]).add_(epsilon).rsqrt_()  # (..., 1)
        ctx.save_for_backward(x, weight, inverse)
        return torch.mul(wide, inverse).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        wide, by_output = x.float(), upstream[0].float()
        by_weight = None
        if ctx.needs_input_grad[1]:
            by_weight = (by_output * wide).mul_(inverse).flatten(0, -2).sum(0).to(weight.dtype)
        if not ctx.needs_input_grad[0]:
            return None, by_weight, None
        by_normed = by_output * weight
        along = torch.linalg.vecdot(by_normed, wide).unsqueeze(-1)
        # Of the gradient, what points along x would only change its length, which the norm takes away.
        by_normed.addcmul_(wide, along.mul_(inverse).mul_(inverse).div_(-x.shape[-1]))
        return by_normed.mul_(inverse).to(x.dtype), by_weight, None


class _SwiGlu(torch.autograd.Function):
    """silu(gate) · up (https://arxiv.org/abs/2002.05202); silu(gate) is computed again instead of kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        by_gate = torch.ops.aten.silu_backward(upstream[0] * up, gate)
        return by_gate, F.silu(gate).mul_(upstream[0])


class _Rotary(torch.autograd.Function):
    """Rotary position embedding (https://arxiv.org/abs/2104.09864) on the two halves of each head, as transformers
    has it; the angles of both halves are the same, so the backward pass is the turn back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        signed = torch.cat((-sine[..., :half], sine[..., half:]), -1)
        ctx.save_for_backward(cosine, signed)
        return _turn(x, cosine, signed)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        cosine, signed = ctx.saved_tensors
        return _turn(upstream[0], cosine, -signed), None, None


def _turn(x: Tensor, cosine: Tensor, signed: Tensor) -> Tensor:
    return (x * cosine).addcmul_(torch.roll(x, x.shape[-1] // 2, -1), signed)
