"""Near-duplicates among millions of texts: MinHash and LSH propose pairs, true Jaccard similarity decides.

A text is the set of its 5-byte shingles after folding case, width and whitespace: no tokenizer, so every language
counts alike, and a shingle packs into one integer, so the verified similarity is exact. Shingles that most texts share
(an instruction template) say nothing about duplication and are left out. Only LSH can lose a pair: 1.4% of those at
exactly 0.8, far fewer above. Sketches are spilled to a temporary file and read back a band at a time, so a text costs
some 50 bytes of memory at the peak, and a kilobyte some 25 microseconds of one core; a large set uses all cores.
"""

import itertools
import os
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

Integers: TypeAlias = NDArray[np.int64]
Hashes: TypeAlias = NDArray[np.uint64]

NEAR_DUPLICATE = 0.8
"""Jaccard similarity from which two texts are near-duplicates (Lee et al. 2022, arXiv:2107.06499, use 0.8 as well)."""

SHINGLE_BYTES = 5
"""Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", 3.2.2: 5 characters for short texts."""

BANDS, BAND_ROWS = 18, 7
"""A pair of similarity s becomes a candidate with probability 1 - (1 - s**7)**18: 0.986 at 0.8, 0.13 at 0.5."""

BAND_FACTORS = np.random.default_rng(0).integers(1 << 63, size=BAND_ROWS, dtype=np.uint64) | np.uint64(1)
"""Odd factors that mix a band's minima into one key; always the same, so that results are."""

BUCKET_WINDOW = 32
"""Texts of one LSH bucket are compared with this many neighbours, so one huge bucket costs linear, not square, time."""

TEMPLATE_SHARE = 0.5
TEMPLATE_MINIMUM_TEXTS = 20
TEMPLATE_SAMPLE = 500
"""Shingles in over half of the (sampled) distinct texts are template, once there are enough texts to tell."""

CHUNK = 128
"""Texts per unit of work: about a megabyte of shingles, which stays in the cache."""

IN_PARTS_FROM = 1_000_000
"""Hashes from which sorting all of them at once would take more memory than all else."""

STARTS_AT_ONCE = 512
"""Chunks handed to the workers together, so that a large set's sketches do not queue up in memory."""

PARALLEL_FROM = 20_000
"""Texts from which starting worker processes pays."""

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


def normalize(text: str) -> str:
    """Fold Unicode width and composition (NFKC), case and whitespace, so that equal results mean "the same text"."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    # Most texts have a few kinds of odd space or none; looking for each is a tenth of the cost of splitting.
    if "\n" in text or "  " in text or "\t" in text or "\r" in text or "\0" in text or text != text.strip():
        text = " ".join(text.replace("\0", " ").split())
    return text.casefold()


def exact_groups(texts: Sequence[str]) -> Integers:
    """For each text the index of the first text that is the same once normalized (its own index if there is none).

    Texts are told apart by Python's 64-bit hash, so memory does not grow with their length; among ten million texts
    two different ones share a hash with a probability of three in a million.
    """
    return _first_with_same(np.fromiter((hash(normalize(text)) for text in texts), np.int64, len(texts)))


def duplicate_pairs(texts: Sequence[str], threshold: float = NEAR_DUPLICATE) -> DuplicatePairs:
    """All pairs of distinct texts with Jaccard similarity of at least `threshold`, and each exact copy with its first.

    Empty texts are duplicates of nothing. `texts` is indexed, not copied, so it may be a lazy sequence over a file.
    """
    template = _template(texts)
    hashes, keys = _sketches(texts, template)
    first = _first_with_same(hashes)
    indices = np.arange(len(first))
    copies = indices[(first != indices) & (hashes != hash(""))]
    near_left, near_right = _candidates(keys, indices[first == indices])
    similarity = _similarities(texts, near_left, near_right, template)
    near = similarity >= threshold
    left = np.concatenate([first[copies], near_left[near]])
    right = np.concatenate([copies, near_right[near]])
    exact = np.arange(len(left)) < len(copies)
    order = np.lexsort((right, left))
    both = np.concatenate([np.ones(len(copies)), similarity[near]])
    return DuplicatePairs(left[order], right[order], both[order], exact[order])


def near_duplicate_clusters(texts: Sequence[str], threshold: float = NEAR_DUPLICATE) -> Integers:
    """A cluster id per text, the index of its first member; texts joined by a chain of duplicate pairs share one."""
    return connected_components(len(texts), duplicate_pairs(texts, threshold))


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


def _first_with_same(hashes: Integers) -> Integers:
    """For each hash the index of the first one equal to it."""
    first = np.empty(len(hashes), np.int64)
    # Sorting takes 40 bytes a hash, so many hashes are sorted a part at a time, told by their lowest bits.
    parts = 16 if len(hashes) >= IN_PARTS_FROM else 1
    for part in range(parts):
        members = np.flatnonzero(hashes & (parts - 1) == part)
        _, firsts, inverse = np.unique(hashes[members], return_index=True, return_inverse=True)
        first[members] = members[firsts[inverse]]
    return first


class _Template:
    """The shingles that say nothing, and a table over 16 bits of their hashes, which passes nearly all others."""

    def __init__(self, shingles: Hashes) -> None:
        self._shingles = np.sort(shingles)  # so that those with the same bits stand together
        tops = self._tops(self._shingles)
        counts = np.bincount(tops, minlength=1 << 16)
        self._suspects = counts > 0
        self._first = np.cumsum(counts) - counts
        self._most = int(counts.max())

    def places_in(self, shingles: Hashes) -> Integers:
        """Where in `shingles` the template's stand, in order."""
        if not len(self._shingles):
            return np.empty(0, np.int64)
        tops = self._tops(shingles)
        stopped = np.flatnonzero(self._suspects.take(tops))
        values, first = shingles[stopped], self._first[tops[stopped]]
        found = self._shingles[first] == values
        for step in range(1, self._most):
            found |= self._shingles.take(first + step, mode="clip") == values
        places: Integers = stopped[found]
        return places

    @staticmethod
    def _tops(shingles: Hashes) -> Integers:
        return (shingles >> np.uint64(48)).view(np.int64)


def _shingles(texts: Sequence[str], template: _Template) -> tuple[Hashes, Integers, NDArray[np.bool_]]:
    """The shingles of all texts in one array, where each text's begin and end in it, (texts + 1,), and which are bare.

    A shingle starts at every byte of a text; those at its end are padded. Each is scrambled by a bijection, so equal
    hashes are equal shingles. Shingles of the template (and of the padding) are overwritten by another of the same
    text, which leaves its set as if they were cut out and costs a third of that; a text that has no other is bare, and
    what stands in its place means nothing.
    """
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    padding = bytes(SHINGLE_BYTES - 1)
    buffer = padding.join(encoded) + padding
    windows = np.ndarray(len(buffer), "<u8", buffer + bytes(8), strides=(1,))
    shingles: Hashes = windows & np.uint64((1 << 8 * SHINGLE_BYTES) - 1)
    shingles *= np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: an odd factor, so nothing collides
    shingles ^= shingles >> np.uint64(32)
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) + len(padding) for text in encoded], out=offsets[1:])

    removed = template.places_in(shingles)
    begins, lengths = offsets[:-1], np.diff(offsets) - len(padding)
    before = np.searchsorted(removed, begins)
    counts = np.searchsorted(removed, begins + lengths) - before
    # Among the removed, what runs on without a gap from a text's beginning has the same difference of place and rank.
    run = np.searchsorted(removed - np.arange(len(removed)), begins - before, side="right") - before
    another = shingles[np.minimum(begins + run, len(shingles) - 1)]
    shingles[removed] = np.repeat(another, counts)
    shingles[offsets[1:, None] - np.arange(1, SHINGLE_BYTES)] = another[:, None]
    return shingles, offsets, counts == lengths


def _shingle_sets(texts: Sequence[str], template: _Template) -> list[Hashes]:
    """Each text's set of shingles without the template's, sorted."""
    sets: list[Hashes] = []
    for start in range(0, len(texts), CHUNK):
        shingles, offsets, bare = _shingles(texts[start : start + CHUNK], template)
        for begin, end, empty in zip(offsets[:-1].tolist(), offsets[1:].tolist(), bare.tolist(), strict=True):
            sets.append(_sorted_set(shingles[begin : begin if empty else end]))
    return sets


def _template(texts: Sequence[str]) -> _Template:
    """The shingles that over `TEMPLATE_SHARE` of an evenly spaced sample of the texts contain."""
    none = _Template(np.empty(0, np.uint64))
    chosen = np.unique(np.linspace(0, max(len(texts) - 1, 0), TEMPLATE_SAMPLE).astype(np.int64)).tolist()
    sample = {normalize(texts[index]) for index in chosen} if len(texts) >= TEMPLATE_MINIMUM_TEXTS else set()
    if len(sample) < TEMPLATE_MINIMUM_TEXTS:
        return none
    sets = _shingle_sets(list(sample), none)
    shingles, counts = np.unique(np.concatenate(sets), return_counts=True)
    return _Template(shingles[counts > TEMPLATE_SHARE * len(sets)])


class _BandKeys:
    """One 32-bit key per LSH band and text, in a temporary file band by band: ten million texts have 720 MB of them."""

    def __init__(self, texts: int) -> None:
        self._texts = texts
        self._file = tempfile.TemporaryFile(prefix="tunesmith-", buffering=0)  # noqa: SIM115  # vanishes with the object

    def put(self, start: int, keys: NDArray[np.uint32]) -> None:
        """Keep the keys, (bands, chunk), of the texts from `start` on."""
        for band, chunk in enumerate(keys):
            self._file.seek(4 * (band * self._texts + start))
            self._file.write(chunk.tobytes())

    def band(self, band: int) -> NDArray[np.uint32]:
        """The keys of one band, (texts,)."""
        self._file.seek(4 * band * self._texts)
        return np.fromfile(self._file, np.uint32, self._texts)


def _sketches(texts: Sequence[str], template: _Template) -> tuple[Integers, _BandKeys]:
    """Each text's hash, (texts,), and its band keys; chance collisions of keys cost a verification, never a pair."""
    hashes = np.empty(len(texts), np.int64)
    keys = _BandKeys(len(texts))
    starts = range(0, len(texts), CHUNK)
    for start, (chunk_hashes, chunk_keys) in zip(starts, _sketch_all(texts, template, starts), strict=True):
        hashes[start : start + len(chunk_hashes)] = chunk_hashes
        keys.put(start, chunk_keys)
    return hashes, keys


def _sketch_all(
    texts: Sequence[str], template: _Template, starts: range
) -> Iterator[tuple[Integers, NDArray[np.uint32]]]:
    """`_sketch` for each start, in order, on all cores when there is much to do."""
    # Forked workers see the texts without a copy being sent, and hash as this process does; where forking is not safe
    # one core does it all.
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    if cores == 1 or len(texts) < PARALLEL_FROM:
        yield from (_sketch(texts, template, start) for start in starts)
        return
    with ProcessPoolExecutor(cores, get_context("fork"), _share_with_worker, (texts, template)) as pool:
        for first in range(0, len(starts), STARTS_AT_ONCE):
            yield from pool.map(_sketch_shared, starts[first : first + STARTS_AT_ONCE], chunksize=16)


def _sketch(texts: Sequence[str], template: _Template, start: int) -> tuple[Integers, NDArray[np.uint32]]:
    """The hashes, (chunk,), and band keys, (bands, chunk), of one chunk of texts."""
    normalized = [normalize(text) for text in texts[start : start + CHUNK]]
    shingles, offsets, is_bare = _shingles(normalized, template)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        shingles, offsets.astype(np.uint64), BANDS * BAND_ROWS, seed=0
    )
    minima = np.fromiter(itertools.chain.from_iterable(matrix.to_rows()), np.uint64)
    signatures = minima.reshape(-1, BANDS, BAND_ROWS)
    bands: Hashes = (signatures * BAND_FACTORS).sum(axis=2) >> np.uint64(32)  # (chunk, bands)
    # A text of nothing but template has no evidence: keys of its own make it like (almost) no other.
    bare = np.flatnonzero(is_bare)
    bands[bare] = (start + bare)[:, None]
    return np.fromiter(map(hash, normalized), np.int64), bands.T.astype(np.uint32)


_shared: list[tuple[Sequence[str], _Template]] = []


def _share_with_worker(texts: Sequence[str], template: _Template) -> None:
    _shared[:] = [(texts, template)]


def _sketch_shared(start: int) -> tuple[Integers, NDArray[np.uint32]]:
    return _sketch(*_shared[0], start)


def _candidates(keys: _BandKeys, distinct: Integers) -> tuple[Integers, Integers]:
    """Pairs of `distinct` texts that share the key of a band, each once, as index arrays with `left < right`."""
    size = len(distinct)
    found = np.empty(0, np.int64)
    for number in range(BANDS):
        band = keys.band(number)[distinct]
        order = np.argsort(band, kind="stable")
        ordered = band[order]
        pairs = [found]
        for distance in range(1, BUCKET_WINDOW + 1):
            same = np.flatnonzero(ordered[distance:] == ordered[:-distance])
            if not len(same):
                break
            pairs.append(order[same] * size + order[same + distance])
        found = np.unique(np.concatenate(pairs))
    return distinct[found // max(size, 1)], distinct[found % max(size, 1)]


def _similarities(texts: Sequence[str], left: Integers, right: Integers, template: _Template) -> NDArray[np.float64]:
    """The Jaccard similarity of each pair's shingle sets."""
    similarity = np.empty(len(left), np.float64)
    for start in range(0, len(left), PAIRS_AT_ONCE):
        ones, others = left[start : start + PAIRS_AT_ONCE].tolist(), right[start : start + PAIRS_AT_ONCE].tolist()
        indices = sorted({*ones, *others})
        normalized = [normalize(texts[index]) for index in indices]
        sets = dict(zip(indices, _shingle_sets(normalized, template), strict=True))
        for pair, (one, other) in enumerate(zip(ones, others, strict=True), start):
            a, b = sets[one], sets[other]
            both = np.sort(np.concatenate([a, b]))
            shared = int(np.count_nonzero(both[1:] == both[:-1]))
            similarity[pair] = shared / max(len(a) + len(b) - shared, 1)
    return similarity


def _sorted_set(hashes: Hashes) -> Hashes:
    ordered = np.sort(hashes)
    return ordered[np.flatnonzero(np.diff(ordered, prepend=~ordered[:1]))]
