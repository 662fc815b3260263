"""Attention over a forest on a CPU by compiled code (`cpu_attention.c`), which is given the forest as a table.

Where there is no compiler, or the processor is not one that the code is for, `available` says so, and torch's products
serve (`forest_attention`).
"""

import ctypes

import torch
from torch import Tensor

from tunesmith.training import cpu_kernels
from tunesmith.training.cpu_kernels import LANES
from tunesmith.training.forest_table import ForestTable, tiles

SIZES = ("heads", "groups", "tokens", "width", "padded", "tiles", "columns", "count", "segment_count", "threads")
TENSORS = (
    *("items", "segments", "ancestors", "room", "query", "key_across", "key_along", "value_across", "value_along"),
    *("softmax", "out", "by_out", "by_query", "by_keys", "by_values", "by_key", "by_value"),
)


class _Call(ctypes.Structure):
    """The C code's `call`."""

    _fields_ = (
        *((name, ctypes.c_ssize_t) for name in SIZES),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in TENSORS),
    )


def available(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether these, (heads, tokens, width) each, can be attended to here."""
    for tensor in (query, key, value):
        if tensor.dtype != query.dtype or tensor.device.type != "cpu" or type(tensor) is not Tensor:
            return False
    if query.dtype not in cpu_kernels.DEFINED or key.shape != value.shape:
        return False
    return hasattr(cpu_kernels.library(query.dtype), "attend")


def attend(query: Tensor, key: Tensor, value: Tensor, table: ForestTable, scale: float) -> tuple[Tensor, Tensor]:
    """softmax(scale · q kᵀ) v, (tokens, heads, width), and what its gradients need, fp32 (heads, tokens, 2).

    `query` (heads, tokens, width) are the stretch's, `key` and `value` (groups, tokens, width) all up to its end.
    """
    heads, tokens, width = query.shape
    output = query.new_empty(tokens, heads, width)
    softmax = torch.empty(heads, tokens, 2, dtype=torch.float32)
    packed = {"key_across": _packed(key, table), "value_along": _packed(value, table, along=True)}
    _run("attend", table, scale, len(key), query=query, **packed, softmax=softmax, out=output)
    return output, softmax


def attend_backward(
    by_output: Tensor, query: Tensor, key: Tensor, value: Tensor, softmax: Tensor, table: ForestTable, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, (tokens, heads, width), and of key and value: fp32 (groups, tokens, width)."""
    by_query = torch.empty_like(by_output, memory_format=torch.contiguous_format)
    by_key, by_value = torch.empty(2, *key.shape, dtype=torch.float32)
    by_keys, by_values = torch.zeros(2, len(key), table.tiles * LANES, _padded(query))
    _run(
        "attend_backward",
        table,
        scale,
        len(key),
        query=query,
        key_across=_packed(key, table),
        key_along=_packed(key, table, along=True),
        value_across=_packed(value, table),
        softmax=softmax,
        by_out=by_output,
        by_query=by_query,
        by_keys=by_keys,
        by_values=by_values,
        by_key=by_key,
        by_value=by_value,
    )
    return by_query, by_key, by_value


def _run(name: str, table: ForestTable, scale: float, groups: int, **tensors: Tensor) -> None:
    """Call the function `name` of the C code."""
    query = tensors["query"]
    library, padded, threads = cpu_kernels.library(query.dtype), _padded(query), torch.get_num_threads()
    room = torch.empty(threads, library.attention_room(padded, table.columns), dtype=torch.float32)
    tensors |= {"items": table.items, "segments": table.segments, "ancestors": table.ancestors, "room": room}
    dense = {name: tensor.contiguous() for name, tensor in tensors.items()}
    counts = len(table.items), len(table.segments), threads
    sizes = (query.shape[0], groups, *query.shape[1:], padded, table.tiles, table.columns, *counts)
    addresses = {name: tensor.data_ptr() for name, tensor in dense.items()}
    call = _Call(**dict(zip(SIZES, sizes, strict=True)), scale=scale, **addresses)
    getattr(library, name)(ctypes.byref(call))


def _packed(states: Tensor, table: ForestTable, *, along: bool = False) -> Tensor:
    """`states` (groups, tokens, width) laid out for products along their width, or `along` their tokens."""
    groups, tokens, width = states.shape
    packed = states.new_empty(groups, table.tiles * LANES, _padded(states))
    cpu_kernels.library(states.dtype).pack_states(
        *(groups, tokens, width, _padded(states), table.tiles, len(table.needed), table.needed, table.segments),
        *(states.contiguous(), None if along else packed, packed if along else None),
    )
    return packed


def _padded(states: Tensor) -> int:
    """Numbers of a head as the C code multiplies them: two vectors at a time."""
    return tiles(states.shape[-1], 2 * LANES) * 2 * LANES
