"""What stands between a decoder's matrix products, on a GPU: one kernel each forward and one backward.

There these expressions wait for memory, and run as five to ten kernels when torch takes them one by one; TorchInductor
(https://docs.pytorch.org/docs/stable/torch.compiler.html) makes one of each, and of its gradient.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """`function`, one of those below or attention, compiled when it is first called, for any number of tokens."""
    return torch.compile(function, dynamic=True)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """w · x / rms(x) (https://arxiv.org/abs/1910.07467), in fp32 whatever the precision of x."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon) * weight).to(x.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up (https://arxiv.org/abs/2002.05202)."""
    return F.silu(gate) * up


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding (https://arxiv.org/abs/2104.09864) on the two halves of each head, in x's precision."""
    half = x.shape[-1] // 2
    return (x * cosine + torch.cat((-x[..., half:], x[..., :half]), -1) * sine).to(x.dtype)
