"""A forest and a stretch of it as tables of numbers, as compiled attention reads them (`cpu_attention.c`)."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.training.cpu_kernels import LANES
from tunesmith.training.shared_prefix import Forest


@dataclass(frozen=True)
class ForestTable:
    """The segments of a forest as `tiles` of LANES tokens, the last one of each filled up; and a stretch of it.

    `segments` (segments, 3), `items` (items, 7) and `ancestors` (of all items,) are the C code's. `needed` (needed,)
    are the segments that the stretch sees, `columns` the most keys that one of its queries does, in whole pairs of
    tiles, and `places` (tokens,) where each token of the forest stands in the tiles.
    """

    segments: Tensor
    needed: Tensor
    items: Tensor
    ancestors: Tensor
    places: Tensor
    tiles: int
    columns: int


def forest_table(forest: Forest, start: int, end: int) -> ForestTable:
    """The tables of `forest`, and of its tokens `start` to `end` as a stretch."""
    parts = forest.segments
    numbers = {part.start: number for number, part in enumerate(parts)}
    ends = [*itertools.accumulate((tiles(part.end - part.start) for part in parts), initial=0)]
    items: list[tuple[int, ...]] = []
    ancestors: list[int] = []
    columns = 0
    for number, part in enumerate(parts):
        first, last = max(part.start, start), min(part.end, end)
        if first < last:
            above = len(ancestors)
            ancestors += [numbers[ancestor.start] for ancestor in part.ancestors]
            seen = first - part.start + 1
            before = sum(ends[index + 1] - ends[index] for index in ancestors[above:])
            items.append((number, first - start, last - first, seen, above, len(ancestors), before))
            columns = max(columns, before + tiles(last - part.start))
    places = [torch.arange(part.end - part.start) + first * LANES for part, first in zip(parts, ends, strict=False)]
    return ForestTable(
        segments=torch.tensor([(part.start, part.end, first) for part, first in zip(parts, ends, strict=False)]),
        needed=torch.tensor(sorted({item[0] for item in items} | set(ancestors))),
        items=torch.tensor(items),
        ancestors=torch.tensor(ancestors, dtype=torch.int64),
        places=torch.cat(places),
        tiles=ends[-1],
        columns=tiles(columns, 2) * 2 * LANES,
    )


def tiles(count: int, size: int = LANES) -> int:
    """Of `size` each, that hold `count`."""
    return -(-count // size)
