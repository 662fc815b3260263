"""The same LoRA as PEFT's, with fewer passes over memory.

PEFT casts each layer's input to the adapter's fp32, autocast casts it back, and autograd keeps every copy; the sum
W·x + s·B·A·x takes two more passes over the output. Here the small matrices are cast instead, their product is added
into the frozen layer's output, and only the input and its rank-r image are kept for the backward pass. Layers that
read the same input share its image: their A matrices are one.
Layers that are not plain LoRA on a plain frozen linear layer stay as they are.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from peft.tuners.lora import Linear
from torch import Tensor, nn

from tunesmith.training.precision import computing_dtype
from tunesmith.training.trained_linear import all_learn, project_trained


class FastLinear(Linear):
    """PEFT's LoRA layer; its forward is ours while one plain adapter is on, and PEFT's own otherwise."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """W·x + s·B·A·x, in the precision of W."""
        if args or kwargs or self.plain_adapter() is None:
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        (output,) = project(x, (self,))
        return output

    def plain_adapter(self) -> str | None:
        """The one adapter that is on, if it is a plain one."""
        names = self.active_adapters
        if self.disable_adapters or self.merged or len(names) != 1 or not self._is_plain(names[0]):
            return None
        return str(names[0])

    def _is_plain(self, name: str) -> bool:
        dropout = self.lora_dropout[name] if name in self.lora_dropout else None  # noqa: SIM401  # no dict: it has no get
        return (
            name in self.lora_A
            and name not in self.lora_variant
            and not (isinstance(dropout, nn.Dropout) and dropout.p > 0 and self.training)
            and self.lora_B[name].bias is None
            and not self.base_layer.weight.requires_grad
            and (self.base_layer.bias is None or not self.base_layer.bias.requires_grad)
        )


def use_fast_lora(model: nn.Module) -> None:
    """Make every plain LoRA layer of `model` a `FastLinear`; its parameters and their names stay."""
    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = FastLinear


def project(x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """What each of `layers` makes of the same `x`."""
    if all_learn(x, layers):
        return project_trained(x, layers)
    names = [layer.plain_adapter() if isinstance(layer, FastLinear) else None for layer in layers]
    plain: Any = list(zip(layers, names, strict=True))
    if not all(names) or len({layer.base_layer.weight.dtype for layer, _ in plain}) > 1:
        if all(type(layer) is nn.Linear for layer in layers):
            x = x.to(computing_dtype(x))  # once: each layer would keep a copy of its own
        return tuple(layer(x) for layer in layers)
    matrices = []
    for layer, name in plain:
        base: Any = layer.base_layer
        matrices += [base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight]
    scalings = [layer.scaling[name] for layer, name in plain]
    outputs: tuple[Tensor, ...] = _LoraLinears.apply(x, scalings, *matrices)  # type: ignore[no-untyped-call]
    return outputs


class _LoraLinears(torch.autograd.Function):
    """Takes weight, bias, A and B of each layer after the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scalings: list[float], *matrices: Tensor) -> tuple[Tensor, ...]:
        weights, biases, small_ins, small_outs = (matrices[part::4] for part in range(4))
        ctx.scalings, ctx.input, ctx.learns = scalings, (x.shape, x.dtype), small_ins[0].dtype
        dtype = weights[0].dtype
        with torch.autocast(x.device.type, enabled=False):
            rows = x.flatten(0, -2).to(dtype)  # (tokens, in)
            down = torch.cat(small_ins).to(dtype)  # (all ranks, in)
            ups = [(matrix * scaling).to(dtype) for matrix, scaling in zip(small_outs, scalings, strict=True)]
            image = rows @ down.t()  # (tokens, all ranks)
            outputs = [
                F.linear(rows, weight, bias).addmm_(part, up.t())
                for weight, bias, part, up in zip(weights, biases, _parts(image, ups), ups, strict=True)
            ]
        ctx.save_for_backward(rows, image, down, *weights, *ups)
        # Not -1: the head of a model is given no tokens when only its losses are asked for.
        return tuple(output.view(*x.shape[:-1], output.shape[-1]) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, image, down, *matrices = ctx.saved_tensors
        weights, ups = matrices[: len(upstream)], matrices[len(upstream) :]
        by_outputs = [gradient.reshape(-1, gradient.shape[-1]) for gradient in upstream]  # (tokens, out) each
        by_image = torch.empty_like(image)
        for by_output, up, part in zip(by_outputs, ups, _parts(by_image, ups), strict=True):
            torch.mm(by_output, up, out=part)
        by_input = None
        if ctx.needs_input_grad[0]:
            shape, dtype = ctx.input
            by_input = by_outputs[0] @ weights[0]
            for by_output, weight in zip(by_outputs[1:], weights[1:], strict=True):
                by_input.addmm_(by_output, weight)
            by_input = by_input.addmm_(by_image, down).view(shape).to(dtype)
        by_downs = torch.split((by_image.t() @ rows).to(ctx.learns), [up.shape[1] for up in ups])
        by_ups = [
            (part.t() @ by_output).t().to(ctx.learns).mul_(scaling)
            for part, by_output, scaling in zip(_parts(image, ups), by_outputs, ctx.scalings, strict=True)
        ]
        by_matrices = [gradient for pair in zip(by_downs, by_ups, strict=True) for gradient in (None, None, *pair)]
        return by_input, None, *by_matrices


def _parts(image: Tensor, ups: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Each layer's columns of `image`."""
    return torch.split(image, [up.shape[1] for up in ups], 1)
