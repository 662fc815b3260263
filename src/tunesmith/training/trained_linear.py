"""Linear layers all of whose weights learn, on a CPU: what autograd and autocast make of them, in less memory.

Autocast keeps a copy of every weight in bf16 from the forward to the backward pass: here it is made anew for each.
A weight's gradient goes into what is there already as soon as it is computed. Layers that read the same input keep it
once, and their gradients of it are added up in place.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor, nn

from tunesmith.training.gradients import add_gradient, add_product
from tunesmith.training.precision import computing_dtype


def all_learn(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """Whether `layers`, which read `x`, are what `project_trained` takes."""
    return (
        torch.is_grad_enabled()
        and x.requires_grad
        and x.device.type == "cpu"
        and all(type(layer) is nn.Linear for layer in layers)
        and all(parameter.requires_grad for layer in layers for parameter in layer.parameters())
    )


def project_trained(x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """What each of `layers` makes of the same `x`."""
    outputs: tuple[Tensor, ...] = _TrainedLinears.apply(x, layers)  # type: ignore[no-untyped-call]
    return outputs


class _TrainedLinears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: Sequence[nn.Linear]) -> tuple[Tensor, ...]:
        ctx.layers, ctx.input = layers, (x.shape, x.dtype)
        dtype = computing_dtype(layers[0].weight)
        with torch.autocast(x.device.type, enabled=False):
            rows = x.flatten(0, -2).to(dtype)  # (tokens, in)
            outputs = [
                F.linear(rows, layer.weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype))
                for layer in layers
            ]
        ctx.save_for_backward(rows)
        return tuple(output.view(*x.shape[:-1], -1) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        shape, dtype = ctx.input
        by_input = torch.zeros_like(rows)
        for layer, gradient in zip(ctx.layers, upstream, strict=True):
            by_output = gradient.reshape(-1, gradient.shape[-1])  # (tokens, out)
            add_product(layer.weight, by_output, rows)
            if layer.bias is not None:
                add_gradient(layer.bias, by_output.sum(0))
            by_input.addmm_(by_output, layer.weight.detach().to(rows.dtype))
        return by_input.view(shape).to(dtype), None
