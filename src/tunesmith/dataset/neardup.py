"""Near-duplicates among millions of texts: MinHash and LSH propose pairs, true Jaccard similarity decides.

Texts are compared as sets of shingles. Only LSH can lose a pair: 1.4% of those at exactly 0.8, far fewer above. The
peak of memory (of allocations, by tracemalloc) is 81 bytes a text, and 29 for a million texts and more.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from tunesmith.dataset.shingles import Integers, normalize, sorted_set
from tunesmith.dataset.sketch import BANDS, BandKeys, Sketches, sketch

NEAR_DUPLICATE = 0.8
"""Jaccard similarity from which two texts are near-duplicates (Lee et al. 2022, arXiv:2107.06499, use 0.8 as well)."""

BUCKET_WINDOW = 32
"""Texts of one LSH bucket are compared with this many neighbours, so one huge bucket costs linear, not square, time."""

IN_PARTS_FROM = 1_000_000
"""Hashes from which sorting all of them at once would take more memory than all else."""

PAIRS_AT_ONCE = 100
"""Pairs verified together: enough to share the work of making their shingles."""


@dataclass(frozen=True, slots=True, eq=False)
class DuplicatePairs:
    """Pairs of text indices with `left < right`, sorted, and their Jaccard similarity.

    `exact` marks the same text once normalized, and is stricter than a similarity of 1.0. Exact copies are paired with
    the first of them only, and near-duplicates are sought among the firsts only.
    """

    left: Integers  # (pairs,)
    right: Integers  # (pairs,)
    similarity: NDArray[np.float64]  # (pairs,)
    exact: NDArray[np.bool_]  # (pairs,)

    def __len__(self) -> int:
        return len(self.left)

    def __iter__(self) -> Iterator[tuple[int, int, float]]:
        return zip(self.left.tolist(), self.right.tolist(), self.similarity.tolist(), strict=True)

    def where(self, keep: NDArray[np.bool_]) -> "DuplicatePairs":
        """The pairs for which `keep`, one flag a pair, is true."""
        return DuplicatePairs(self.left[keep], self.right[keep], self.similarity[keep], self.exact[keep])


class LazyTexts(Sequence[str]):
    """A sequence of texts that are made when asked for, so that a million of them need not be held in memory."""

    def __init__(self, size: int, text: Callable[[int], str]) -> None:
        self._size = size
        self._text = text

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        positions = range(self._size)[index]
        return self._text(positions) if isinstance(positions, int) else [self._text(position) for position in positions]


def exact_groups(texts: Sequence[str]) -> Integers:
    """For each text the index of the first text that is the same once normalized (its own index if there is none).

    Texts are told apart by Python's 64-bit hash, so memory does not grow with their length; among ten million texts
    two different ones share a hash with a probability of three in a million.
    """
    return first_with_same(np.fromiter((hash(normalize(text)) for text in texts), np.int64, len(texts)))


def duplicate_pairs(texts: Sketches, threshold: float = NEAR_DUPLICATE) -> DuplicatePairs:
    """All pairs of distinct texts with Jaccard similarity of at least `threshold`, and each exact copy with its first.

    Empty texts are duplicates of nothing.
    """
    first = first_with_same(texts.hashes)
    is_first = first == np.arange(len(first))
    copies = np.flatnonzero(~is_first & (texts.hashes != hash("")))
    originals = first[copies]
    del first  # before the memory's peak
    near_left, near_right = _candidates(texts.keys, np.flatnonzero(is_first))
    similarity = _similarities(texts, near_left, near_right)
    near = similarity >= threshold
    left = np.concatenate([originals, near_left[near]])
    right = np.concatenate([copies, near_right[near]])
    exact = np.arange(len(left)) < len(copies)
    order = np.lexsort((right, left))
    both = np.concatenate([np.ones(len(copies)), similarity[near]])
    return DuplicatePairs(left[order], right[order], both[order], exact[order])


def near_duplicate_clusters(texts: Sequence[str], threshold: float = NEAR_DUPLICATE) -> Integers:
    """A cluster id per text, the index of its first member; texts joined by a chain of duplicate pairs share one."""
    return connected_components(len(texts), duplicate_pairs(sketch(texts), threshold))


def connected_components(size: int, pairs: DuplicatePairs) -> Integers:
    """The smallest index each of `size` texts is connected to through `pairs` (union-find with path halving)."""
    parent: dict[int, int] = {}

    def root(index: int) -> int:
        while (above := parent.get(index, index)) != index:
            parent[index] = index = parent.get(above, above)
        return index

    for left, right, _ in pairs:
        low, high = sorted((root(left), root(right)))
        parent[high] = low
    components = np.arange(size)
    for index in parent:
        components[index] = root(index)
    return components


def first_with_same(hashes: Integers) -> Integers:
    """For each hash the index of the first one equal to it."""
    first = np.empty(len(hashes), np.int64)
    # Sorting takes 40 bytes a hash, so many hashes are sorted a part at a time, told by their lowest bits.
    parts = 16 if len(hashes) >= IN_PARTS_FROM else 1
    for part in range(parts):
        members = np.flatnonzero(hashes & (parts - 1) == part)
        _, firsts, inverse = np.unique(hashes[members], return_index=True, return_inverse=True)
        first[members] = members[firsts[inverse]]
    return first


def _candidates(keys: BandKeys, distinct: Integers) -> tuple[Integers, Integers]:
    """Pairs of `distinct` texts that share the key of a band, each once, as index arrays with `left < right`."""
    size = len(distinct)
    found = np.empty(0, np.int64)
    # Place and key as the halves of one integer: sorting those is twenty times faster than a stable sort by key.
    placed = np.empty((size, 2), "<u4")
    order, band = placed[:, 0], placed[:, 1]
    for number in range(BANDS):
        order[:] = np.arange(size, dtype=np.uint32)
        band[:] = keys.band(number)[distinct]
        placed.view("<u8")[:, 0].sort()
        pairs = [found]
        for distance in range(1, BUCKET_WINDOW + 1):
            same = np.flatnonzero(band[distance:] == band[:-distance])
            if not len(same):
                break
            pairs.append(order[same].astype(np.int64) * size + order[same + distance])
        found = sorted_set(np.concatenate(pairs))
    return distinct[found // max(size, 1)], distinct[found % max(size, 1)]


def _similarities(texts: Sketches, left: Integers, right: Integers) -> NDArray[np.float64]:
    """The Jaccard similarity of each pair's shingle sets."""
    similarity = np.empty(len(left), np.float64)
    for start in range(0, len(left), PAIRS_AT_ONCE):
        ones, others = left[start : start + PAIRS_AT_ONCE].tolist(), right[start : start + PAIRS_AT_ONCE].tolist()
        indices = sorted({*ones, *others})
        sets = dict(zip(indices, texts.shingle_sets(indices), strict=True))
        for pair, (one, other) in enumerate(zip(ones, others, strict=True), start):
            a, b = sets[one], sets[other]
            both = np.sort(np.concatenate([a, b]), kind="stable")  # which merges sorted runs, ten times faster
            shared = int(np.count_nonzero(both[1:] == both[:-1]))
            similarity[pair] = shared / max(len(a) + len(b) - shared, 1)
    return similarity
