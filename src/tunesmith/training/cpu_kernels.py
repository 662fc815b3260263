"""What stands between a decoder's matrix products on a CPU: one compiled pass each (`cpu_kernels.c`), or torch's.

Torch takes such an expression one operation at a time and rounds in between; as one pass it takes a quarter to three
quarters of the time. Torch computes where nothing could be compiled, and for tensors that the C code does not know: of
mixed types, on other devices, without memory of their own.
"""

import ctypes
import functools
import threading
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor, nn

from tunesmith.training.compiling import compiled

SOURCES = [Path(__file__).with_name(name) for name in ("cpu_kernels.c", "cpu_attention.c", "cpu_numbers.h")]

DEFINED = {torch.bfloat16: ("NUMBER_IS_BF16",), torch.float32: ()}
"""The types of numbers there are kernels for, and what the C code is told of them."""

ARGUMENTS = {
    "rms_norm": "nnftttttt",
    "rms_norm_backward": "nntttttt",
    "swiglu": "nttt",
    "swiglu_backward": "nttttt",
    "rotate": "nnnfnnnntttt",
    "causal_softmax": "nnnftnt",
    "softmax_backward": "nnftt",
    "cross_entropy": "nntttnt",
    "attention_room": "nn",
    "pack_states": "nnnnnnttttt",
    "attend": "c",
    "attend_backward": "c",
}
"""Of each function of the C code: n a size, f a number in fp32, t a tensor, c a `call` of attention."""

LANES = 16
"""Numbers of the longest vector, as in the C code."""

CACHED_LOGITS = 2**20
"""Logits that torch turns to fp32 at once on a CPU (4 MiB: they stay in its cache)."""

LARGEST_BLOCK = 128
"""Queries of a block whose mask is kept."""

_loading = threading.Lock()


def rms_norm(x: Tensor, added: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """x + added; w · that / its root mean square (https://arxiv.org/abs/1910.07467); and one over the latter (..., 1).

    In fp32 whatever the precision of x.
    """
    inverse = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    if (library := _kernels(x, added, weight)) is not None:
        total = x if added is None else torch.empty_like(x)
        normed = torch.empty_like(x)
        library.rms_norm(inverse.numel(), x.shape[-1], epsilon, x, added, weight, total, normed, inverse)
        return total, normed, inverse
    total = x if added is None else x + added
    wide = total.float()
    square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
    inverse = square.div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return total, torch.mul(wide, inverse).mul_(weight).to(total.dtype), inverse


def rms_norm_backward(by_normed: Tensor, by_x: Tensor | None, x: Tensor, weight: Tensor, inverse: Tensor) -> Tensor:
    """The gradient of x, which is also read elsewhere, with the gradient `by_x`."""
    by_normed = by_normed.contiguous()
    by_x = None if by_x is None else by_x.contiguous()
    if (library := _kernels(by_normed, by_x, x, weight)) is not None:
        gradient = torch.empty_like(x)
        library.rms_norm_backward(inverse.numel(), x.shape[-1], by_normed, by_x, x, weight, inverse, gradient)
        return gradient
    wide = x.float()
    gradient = by_normed.float() * weight
    along = torch.linalg.vecdot(gradient, wide).unsqueeze(-1)
    # Of the gradient, what points along x would only change its length, which the norm takes away.
    gradient.addcmul_(wide, along.mul_(inverse).mul_(inverse).div_(-x.shape[-1]))
    gradient = gradient.mul_(inverse).to(x.dtype)
    return gradient if by_x is None else gradient.add_(by_x)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up (https://arxiv.org/abs/2002.05202)."""
    if (library := _kernels(gate, up)) is not None:
        product = torch.empty_like(gate)
        library.swiglu(gate.numel(), gate, up, product)
        return product
    return F.silu(gate).mul_(up)


def swiglu_backward(by_product: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of gate and up; silu(gate) is computed again instead of kept."""
    by_product = by_product.contiguous()
    if (library := _kernels(by_product, gate, up)) is not None:
        by_gate, by_up = torch.empty_like(gate), torch.empty_like(up)
        library.swiglu_backward(gate.numel(), by_product, gate, up, by_gate, by_up)
        return by_gate, by_up
    return torch.ops.aten.silu_backward(by_product * up, gate), F.silu(gate).mul_(by_product)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor, out: Tensor, *, back: bool = False) -> Tensor:
    """Rotary position embedding (https://arxiv.org/abs/2104.09864) on the two halves of each head, or the turn `back`.

    `x` and `out`, where the result goes, are (tokens, heads, width), `cosine` and `sine` (tokens, width), both halves
    alike.
    """
    if x.stride(-1) == 1 == out.stride(-1) and (library := _kernels(cosine, sine, strided=(x, out))) is not None:
        strides = [stride for tensor in (x, out) for stride in tensor.stride()[:2]]
        library.rotate(*x.shape, -1.0 if back else 1.0, *strides, x, cosine, sine, out)
        return out
    half = x.shape[-1] // 2
    signed = torch.cat((sine[..., half:], -sine[..., half:]) if back else (-sine[..., :half], sine[..., :half]), -1)
    turned = (x * cosine.unsqueeze(1)).addcmul_(torch.roll(x, half, -1), signed.unsqueeze(1))
    return out.copy_(turned)


def causal_softmax(logits: Tensor, queries: int, scale: float) -> Tensor:
    """softmax(scale · logits), in the memory of `logits` (groups, rows, keys).

    Rows are heads of `queries` each, the last of which sees all keys, each before it one less.
    """
    if (library := _kernels(logits)) is not None:
        groups, rows, keys = logits.shape
        room = _room(keys)
        library.causal_softmax(groups * rows, keys, queries, scale, logits, len(room), room)
        return logits
    own = logits.view(len(logits), -1, queries, logits.shape[-1])[..., -queries:]
    own += _above_diagonal(queries, own.dtype, own.device)
    return torch.softmax(logits.mul_(scale), -1)


def softmax_backward(by_weights: Tensor, weights: Tensor, scale: float) -> Tensor:
    """The gradient of `causal_softmax`'s logits, in the memory of `by_weights`."""
    if (library := _kernels(by_weights, weights)) is not None:
        library.softmax_backward(weights[..., 0].numel(), weights.shape[-1], scale, weights, by_weights)
        return by_weights
    return torch._softmax_backward_data(by_weights, weights, -1, weights.dtype).mul_(scale)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in fp32, (positions,); `logits` (positions, vocabulary) become its gradient, in place."""
    losses = torch.empty(len(targets), dtype=torch.float32, device=logits.device)
    if (library := _kernels(logits)) is not None:
        room = _room(logits.shape[1])
        library.cross_entropy(*logits.shape, logits, targets.contiguous(), losses, len(room), room)
        return losses
    size = len(targets) if logits.is_cuda else max(1, CACHED_LOGITS // logits.shape[1])
    for start in range(0, len(targets), size):
        part = slice(start, start + size)
        expected = targets[part].unsqueeze(1)  # (part, 1)
        largest = logits[part].amax(1, keepdim=True)
        target = logits[part].gather(1, expected).float()
        softmax = torch.softmax(logits[part], 1, dtype=torch.float32)
        # The largest logit's share is never too small for a logarithm, as the target's may be.
        losses[part] = (largest.float() - softmax.amax(1, keepdim=True).log() - target).squeeze(1)
        softmax.scatter_add_(1, expected, torch.full_like(target, -1.0))
        logits[part] = softmax
        del softmax  # before the next part's is made
    return losses


def _room(count: int) -> Tensor:
    """For `count` numbers in fp32 of each thread, and the rest of a vector; made here, where memory may run out."""
    return torch.empty(torch.get_num_threads(), count + LANES, dtype=torch.float32)


@functools.lru_cache(maxsize=LARGEST_BLOCK)
def _above_diagonal(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Minus infinity above the diagonal, zero elsewhere, (count, count)."""
    return torch.full((count, count), -torch.inf, dtype=dtype, device=device).triu(1)


def _kernels(*tensors: Tensor | None, strided: tuple[Tensor, ...] = ()) -> Any:
    """The compiled kernels for `tensors`, of one type and but for the `strided` without gaps; None: torch computes."""
    dense = [tensor for tensor in tensors if tensor is not None]
    dtype = dense[0].dtype
    if dtype not in DEFINED or not all(tensor.is_contiguous() for tensor in dense):
        return None
    for tensor in (*dense, *strided):
        if tensor.dtype != dtype or tensor.device.type != "cpu" or type(tensor) not in (Tensor, nn.Parameter):
            return None
    return library(dtype)


def kernels_for(device: torch.device, *, bf16: bool) -> str:
    """What a run on `device` is told to compute with: "compiled" kernels, "torch"; nothing where there is no choice."""
    if device.type != "cpu":
        return ""
    return "torch" if library(torch.bfloat16 if bf16 else torch.float32) is None else "compiled"


def library(dtype: torch.dtype) -> Any:
    """The kernels for numbers of `dtype`, compiled when they are first asked for; None where they cannot be."""
    with _loading:
        return _library(dtype)


@functools.cache
def _library(dtype: torch.dtype) -> Any:
    found = compiled(SOURCES, DEFINED[dtype])
    kinds = {"n": ctypes.c_ssize_t, "f": ctypes.c_float, "t": _Memory, "c": ctypes.c_void_p}
    for name, arguments in ARGUMENTS.items() if found is not None else ():
        if hasattr(found, name):  # attention is not for every processor
            function = getattr(found, name)
            function.argtypes = [kinds[kind] for kind in arguments]
            function.restype = ctypes.c_ssize_t if name == "attention_room" else None
    return found


class _Memory:
    """How a tensor, or none, is handed to C: as where its numbers are."""

    @classmethod
    def from_param(cls, tensor: Tensor | None) -> ctypes.c_void_p:
        return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
