"""The loss of a head that learns, with the gradients of its logits kept between its two passes.

They are d loss/d logits = softmax − one-hot, which the forward pass knows; kept in the run's precision they cost less
than what autograd takes to compute them again, and a head needs three matrix products instead of four. Its gradient is
added to the head's as it is made: of a head that is the embedding, too, autograd would hold it through the whole
backward pass until the embedding's own is there.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor

from tunesmith.planning.activations import KEPT_BYTES
from tunesmith.training.cpu_kernels import cross_entropy
from tunesmith.training.gradients import add_product
from tunesmith.training.precision import computing_dtype


def fits(weight: Tensor, positions: int) -> bool:
    """Whether the gradients of the logits that `weight` makes at so many positions may be kept."""
    return positions * weight.shape[0] * computing_dtype(weight).itemsize <= KEPT_BYTES


def trained_head_losses(hidden: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of `hidden` (positions, hidden) under `weight` (vocabulary, hidden); fp32 (positions,)."""
    losses: Tensor = _TrainedHeadLoss.apply(hidden, targets, weight)  # type: ignore[no-untyped-call]
    return losses


class _TrainedHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        rows = hidden.to(computing_dtype(weight))
        slopes = F.linear(rows, weight)  # (positions, vocabulary); autocast has a cast weight from the model's own pass
        losses = cross_entropy(slopes, targets)
        gradient = torch.mm(slopes, weight)  # (positions, hidden)
        ctx.save_for_backward(rows, slopes, gradient)
        ctx.weight, ctx.dtype = weight, hidden.dtype
        return losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, slopes, gradient = ctx.saved_tensors
        weights = upstream[0].unsqueeze(1).to(rows.dtype)  # (positions, 1)
        add_product(ctx.weight, slopes, rows * weights)
        return (gradient * weights).to(ctx.dtype), None, None
