"""The layers of Llama-like decoders in fewer passes over memory, with the same numbers forward and backward.

Autograd takes an expression such as a norm apart, keeps every intermediate and walks it again; here it is one
operation, on a CPU one compiled pass each way (`cpu_kernels`). Projections that read the same input (q, k and v; gate
and up) share their adapters' passes over it, and their gradients of it are added up in place. Of the last layer, what
comes after attention is computed only where the loss reads.
On a GPU they are generated instead, as whole layers (`generated_layers`) or piece by piece (`fused`).
Only layers of transformers (5.24) that are known by name to compute exactly this are taken; all others stay.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation

from tunesmith.training import cpu_kernels
from tunesmith.training.fast_lora import project
from tunesmith.training.forest_attention import forest_attention, in_forest
from tunesmith.training.fused import compiled, rms_norm, rotate, swiglu
from tunesmith.training.generated_layers import is_worth_generating, use_generated_layer
from tunesmith.training.sharding import is_sharded
from tunesmith.training.stretches import Stretch

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
        else:
            layer.forward = functools.partial(_decoder_layer, layer)


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    if hidden_states.is_cuda:
        return compiled(rms_norm)(hidden_states, module.weight, module.variance_epsilon)
    return _normed(module, hidden_states)[1]


def _normed(norm: Any, x: Tensor, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x + added, and what `norm` makes of it."""
    if added is not None and added.dtype != x.dtype:
        x, added = x + added, None
    both: tuple[Tensor, Tensor] = _RmsNorm.apply(x, added, norm.weight, norm.variance_epsilon)  # type: ignore[no-untyped-call]
    return both


def _feed_forward(module: Any, x: Tensor) -> Tensor:
    gate, up = project(x, (module.gate_proj, module.up_proj))
    if type(module.act_fn) is not SiLUActivation:
        product = module.act_fn(gate) * up
    elif gate.is_cuda:
        product = compiled(swiglu)(gate, up)
    else:
        product = _SwiGlu.apply(gate, up)  # type: ignore[no-untyped-call]
    (output,) = project(product, (module.down_proj,))
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
    if hidden.is_cuda:
        query, key = (compiled(rotate)(x, cosine.unsqueeze(2), sine.unsqueeze(2)) for x in (query, key))
    else:
        query, key = (_Rotary.apply(x[0], cosine[0], sine[0])[None] for x in (query, key))  # type: ignore[no-untyped-call]
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # (1, heads, tokens, width) each
    mask, stretch = kwargs.get("attention_mask"), kwargs.get("stretch")
    mixed, _ = forest_attention(module, query, key, value, mask, scaling=module.scaling, stretch=stretch)
    if (read := kwargs.get("read")) is not None:
        mixed = mixed.index_select(1, read)
    (projected,) = project(mixed.flatten(2), (module.o_proj,))
    return projected, None


def _decoder_layer(module: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
    """The last one gives zeros where its stretch is not read: of those tokens only the keys and values are of use."""
    if module.gradient_checkpointing:  # which is in the module's own forward
        output: Tensor = type(module).forward(module, hidden_states, **kwargs)
        return output
    read = _read(module, kwargs.get("stretch"))
    states, normed = _normed(module.input_layernorm, hidden_states)
    mixed, _ = module.self_attn(hidden_states=normed, **kwargs, **({} if read is None else {"read": read}))
    if read is not None:
        states = states.index_select(1, read)  # (1, read, hidden)
    states, normed = _normed(module.post_attention_layernorm, states, mixed)
    del mixed  # beside what the feed-forward layer makes
    states = states + module.mlp(normed)
    return states if read is None else torch.zeros_like(hidden_states).index_copy(1, read, states)


def _read(layer: Any, stretch: Stretch | None) -> Tensor | None:
    """Where what the last layer gives is read, if that is known."""
    attention = layer.self_attn
    last = attention.layer_idx == attention.config.num_hidden_layers - 1
    return stretch.read if last and stretch is not None else None


class _RmsNorm(torch.autograd.Function):
    """x + added, and the norm of that; in the backward pass the two gradients of the sum are one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        total, normed, inverse = cpu_kernels.rms_norm(x, added, weight, epsilon)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(total, weight, inverse)
        return total, normed

    @staticmethod
    def backward(ctx: Any, by_total: Tensor | None, by_normed: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        if by_normed is None:
            return by_total, by_total, None, None
        by_x = by_weight = None
        if ctx.needs_input_grad[2]:
            by_weight = (by_normed.float() * x).mul_(inverse).flatten(0, -2).sum(0).to(weight.dtype)
        if any(ctx.needs_input_grad[:2]):
            by_x = cpu_kernels.rms_norm_backward(by_normed, by_total, x, weight, inverse)
        return by_x, by_x if ctx.needs_input_grad[1] else None, by_weight, None


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return cpu_kernels.swiglu(gate, up)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return cpu_kernels.swiglu_backward(upstream[0], *ctx.saved_tensors)


class _Rotary(torch.autograd.Function):
    """As transformers has it: the angles of both halves are the same, so the backward pass is the turn back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        tokens, heads, width = x.shape
        ctx.save_for_backward(cosine, sine)
        # Laid out (heads, tokens, width), as attention's products like it.
        return cpu_kernels.rotate(x, cosine, sine, x.new_empty(heads, tokens, width).transpose(0, 1))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (by_output,) = upstream
        by_x = torch.empty(by_output.shape, dtype=by_output.dtype)  # without gaps, as the projections' products like it
        cosine, sine = ctx.saved_tensors
        return cpu_kernels.rotate(by_output, cosine, sine, by_x, back=True), None, None
