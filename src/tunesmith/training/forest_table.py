"""A forest and a stretch of it as tables of numbers, as compiled attention reads them (`cpu_attention.c`)."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.training.cpu_kernels import LANES
from tunesmith.training.shared_prefix import Forest


@dataclass(frozen=True)
class ForestTable:
    """A stretch and the segments of its forest up to its end, as `tiles` of LANES tokens, the last of each filled up.

    `segments` (segments, 3), `items` (items, 7) and `ancestors` (of all items,) are the C code's. `needed` (needed,)
    are the segments that the stretch sees, and `columns` the most keys that one of its queries does, in whole pairs of
    tiles.
    """

    segments: Tensor
    needed: Tensor
    items: Tensor
    ancestors: Tensor
    tiles: int
    columns: int


def forest_table(forest: Forest, start: int, end: int) -> ForestTable:
    """The table of the tokens `start` to `end` of `forest` as a stretch, and of all before them."""
    parts = [part for part in forest.segments if part.start < end]
    sizes = [min(part.end, end) - part.start for part in parts]
    numbers = {part.start: number for number, part in enumerate(parts)}
    firsts = [*itertools.accumulate(map(tiles, sizes), initial=0)]
    items: list[tuple[int, ...]] = []
    ancestors: list[int] = []
    columns = 0
    for number, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        seen = max(0, start - part.start)
        if seen < size:
            above = len(ancestors)
            ancestors += [numbers[ancestor.start] for ancestor in part.ancestors]
            before = sum(tiles(sizes[index]) for index in ancestors[above:])
            query = part.start + seen - start
            items.append((number, query, size - seen, seen + 1, above, len(ancestors), before))
            columns = max(columns, before + tiles(size))
    bounds = [(part.start, part.start + size, first) for part, size, first in zip(parts, sizes, firsts, strict=False)]
    return ForestTable(
        segments=torch.tensor(bounds),
        needed=torch.tensor(sorted({item[0] for item in items} | set(ancestors))),
        items=torch.tensor(items),
        ancestors=torch.tensor(ancestors, dtype=torch.int64),
        tiles=firsts[-1],
        columns=tiles(columns, 2) * 2 * LANES,
    )


def tiles(count: int, size: int = LANES) -> int:
    """Of `size` each, that hold `count`."""
    return -(-count // size)
