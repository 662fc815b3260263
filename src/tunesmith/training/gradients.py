"""Gradients added to what learns as they come, instead of given to autograd, which would hold them until it adds.

That saves a pass over memory and, of a matrix that is used in two places, a copy of it that waits for the other's.
"""

import torch
from torch import Tensor

from tunesmith.planning.activations import PRODUCT_ROWS


@torch.no_grad()
def add_gradient(parameter: Tensor, gradient: Tensor) -> None:
    """Add `gradient` to that of `parameter`, which has one of its own afterwards."""
    if parameter.grad is None:
        # Laid out like its parameter: the fused optimizer pairs their numbers as they lie in memory.
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
    else:
        parameter.grad.add_(gradient)


@torch.no_grad()
def add_product(weight: Tensor, by_output: Tensor, rows: Tensor) -> None:
    """Add to the gradient of `weight` (out, in) the product of `by_output` (tokens, out) and `rows` (tokens, in)."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    parts = torch.split(by_output, PRODUCT_ROWS, 1), torch.split(weight.grad, PRODUCT_ROWS)
    for by_part, part in zip(*parts, strict=True):
        if part.dtype == rows.dtype:
            part.addmm_(by_part.t(), rows)
        else:
            part.add_(by_part.t() @ rows)
