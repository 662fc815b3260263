"""Can the model read the text at all? It can when it predicts it better than pairs of letters do, learned from nothing.

Large multilingual models fall behind bigrams on the languages that they do not know (Chang et al. 2024,
https://arxiv.org/abs/2408.10441), while on those that they know they need a third of what bigrams need. A bar that is
measured on the rows themselves holds for any script, since bits per byte differ between scripts by themselves.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from tunesmith.dataset.conversation import Conversation

READ_ROWS = 24
READ_CHARACTERS = 1_000
"""Rows, and characters of each, that are read."""


def row_text(row: Conversation) -> str:
    """All that a row says."""
    return row.text if row.text is not None else "\n".join(message.content for message in row.messages)


def pair_bits_per_byte(rows: Sequence[Conversation]) -> float | None:
    """Bits per byte of UTF-8 that pairs of characters need for the first rows' text; None where there is no text.

    Learned while they are used: every character is predicted from the one before by what followed that so far, mixed
    with all characters alike (Witten and Bell 1991, https://doi.org/10.1109/18.87000).
    """
    texts = [row_text(row)[:READ_CHARACTERS] for row in rows[:READ_ROWS]]
    size = sum(len(text.encode()) for text in texts)
    alphabet = len(set("".join(texts))) + 1
    followers: dict[str, Counter[str]] = defaultdict(Counter)
    bits = 0.0
    for text in texts:
        before = ""
        for character in text:
            seen = followers[before]
            new = max(len(seen), 1)
            bits -= math.log2((seen[character] + new / alphabet) / (seen.total() + new))
            seen[character] += 1
            before = character
    return bits / size if size else None
