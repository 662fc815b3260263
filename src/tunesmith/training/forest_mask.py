"""Forest attention on a GPU: one fused kernel for the whole forest, made by torch's FlexAttention.

A forest is laid out depth first, so a token is seen by what follows it in its segment and by everything below that
segment, which is one run of the flat sequence: `kv <= q < end of kv's subtree` is the whole mask. Which blocks of it
are empty, full or mixed follows from the ends alone, so making the mask costs nothing beside a layer.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, FlexKernelOptions, flex_attention

from tunesmith.training.fused import compiled
from tunesmith.training.shared_prefix import Forest

BLOCK = 128
"""Tokens of a block of the mask, FlexAttention's default."""

KERNEL: FlexKernelOptions = {"FORCE_USE_FLEX_ATTENTION": True}
"""Of few tokens torch would choose the kernel for decoding, which it cannot make for any number of them (torch 2.11: an
error in bf16, minutes of compiling in fp32)."""


def forest_mask(forest: Forest, device: torch.device) -> BlockMask:
    """What each token of `forest` sees, for `attend`."""
    ends = torch.from_numpy(forest.subtree_ends.astype(np.int32)).to(device, non_blocking=True)  # (flat,)
    blocks = -(-len(ends) // BLOCK)
    padded = torch.cat([ends, ends.new_full((blocks * BLOCK - len(ends),), len(ends))]).view(blocks, BLOCK)
    first = torch.arange(blocks, device=device).unsqueeze(1) * BLOCK  # (query blocks, 1)
    below = first > first.T  # (query blocks, key blocks): keys before the queries
    full = below & (padded.amin(1) >= first + BLOCK)
    mixed = (below & ~full & (padded.amax(1) > first)) | (first == first.T)

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends[key])

    return BlockMask.from_kv_blocks(
        *_ordered(mixed), *_ordered(full), BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(len(ends), len(ends))
    )


def attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float) -> Tensor:
    """softmax(scale · q kᵀ) v where `mask` allows; (1, heads, tokens, width), with fewer heads in `key` and `value`."""
    return compiled(flex_attention)(
        query, key, value, block_mask=mask, scale=scale, enable_gqa=True, kernel_options=KERNEL
    )


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many key blocks each query block has, and which: (1, 1, queries) and (1, 1, queries, keys), in blocks."""
    which = torch.argsort(blocks.int(), dim=1, descending=True, stable=True)
    return blocks.sum(1).int()[None, None], which.int()[None, None]
