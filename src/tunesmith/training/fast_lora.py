"""The same LoRA as PEFT's, with fewer passes over memory.

PEFT casts each layer's input to the adapter's fp32, autocast casts it back, and autograd keeps every copy; the sum
W·x + s·B·A·x takes two more passes over the output. Here the small matrices are cast instead, their product is added
into the frozen layer's output, and only the input and its rank-r image are kept for the backward pass.
Layers that are not plain LoRA on a plain frozen linear layer stay as they are.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from peft.tuners.lora import Linear
from torch import Tensor, nn


class FastLinear(Linear):
    """PEFT's LoRA layer; its forward is ours while one plain adapter is on, and PEFT's own otherwise."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """W·x + s·B·A·x, in the precision of W."""
        names = self.active_adapters
        if args or kwargs or self.disable_adapters or self.merged or len(names) != 1 or not self._is_plain(names[0]):
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        (name,) = names
        base = self.base_layer
        small_in, small_out = self.lora_A[name].weight, self.lora_B[name].weight
        output: Tensor = _LoraLinear.apply(x, base.weight, base.bias, small_in, small_out, self.scaling[name])  # type: ignore[no-untyped-call]
        return output

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


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, small_in: Tensor, small_out: Tensor, scaling: float
    ) -> Tensor:
        ctx.scaling, ctx.input, ctx.learns = scaling, (x.shape, x.dtype), small_in.dtype
        with torch.autocast(x.device.type, enabled=False):
            rows = x.flatten(0, -2).to(weight.dtype)  # (tokens, in)
            down = small_in.to(weight.dtype)  # (rank, in)
            up = (small_out * scaling).to(weight.dtype)  # (out, rank)
            image = rows @ down.t()  # (tokens, rank)
            output = F.linear(rows, weight, bias).addmm_(image, up.t())
        ctx.save_for_backward(rows, weight, image, down, up)
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, image, down, up = ctx.saved_tensors
        by_output = upstream[0].reshape(-1, upstream[0].shape[-1])  # (tokens, out)
        by_image = by_output @ up  # (tokens, rank)
        by_input = None
        if ctx.needs_input_grad[0]:
            shape, dtype = ctx.input
            by_input = (by_output @ weight).addmm_(by_image, down).view(shape).to(dtype)
        by_down = (by_image.t() @ rows).to(ctx.learns)
        by_up = (image.t() @ by_output).t().to(ctx.learns).mul_(ctx.scaling)
        return by_input, None, None, by_down, by_up, None
