"""Rows of like length together: how an optimizer step is cut into micro-batches, from the rows' lengths alone.

It stands below the engine, which trains on these cuts, and the checklist, which says what they save.
"""

import math
from collections.abc import Sequence

MICRO_BATCH_TOKENS = 4096
"""Padded tokens that one forward pass may hold (a longer row goes alone): bounds the memory of activations."""

LAUNCH_TOKENS = 64
"""What starting another micro-batch costs, in tokens' worth of time; padding below that is cheaper than a split."""

GPU_LAUNCH_TOKENS = 4096
"""The same on a GPU, which is done with a small operation before the next one is asked for."""


def cheapest_cuts(
    lengths: Sequence[int],
    rows_each: int = 1,
    token_budget: int = MICRO_BATCH_TOKENS,
    launch_tokens: int = LAUNCH_TOKENS,
) -> list[int]:
    """Ends of the contiguous groups of ascending `lengths` that cost least: padded tokens plus a fixed cost each.

    An item stands for `rows_each` rows of its length (the two replies of a preference pair). Exact by dynamic
    programming: the best cut of the first n rows extends a best cut of fewer.
    """
    cost = [0.0] + [math.inf] * len(lengths)  # cost[n]: of the first n rows
    start = [0] * (len(lengths) + 1)  # start[n]: where the last group of that cut begins
    for end in range(1, len(lengths) + 1):
        longest = lengths[end - 1]
        for begin in range(end - 1, -1, -1):
            padded = longest * rows_each * (end - begin)
            if padded > token_budget and end - begin > 1:
                break
            if cost[begin] + padded + launch_tokens < cost[end]:
                cost[end] = cost[begin] + padded + launch_tokens
                start[end] = begin
    ends = []
    end = len(lengths)
    while end > 0:
        ends.append(end)
        end = start[end]
    return ends[::-1]
