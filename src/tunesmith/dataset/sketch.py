"""MinHash sketches of millions of texts: what finds the few pairs that may be near-duplicates.

The minima of a union of sets are the smaller ones of its parts' minima, so texts of two columns (a row's input and
output) are sketched once, for the first column alone and for both as one text. Sketches are spilled to a temporary
file and read back a band at a time, so that a text takes 8 bytes of memory; a large set uses all cores.
"""

import gc
import os
import sys
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from tunesmith.dataset.shingles import (
    CHUNK,
    Hashes,
    Integers,
    Template,
    normalize_each,
    shingle_lists,
    shingles_of,
    sorted_set,
    template_of,
)

BANDS, BAND_ROWS = 18, 7
"""A pair of similarity s becomes a candidate with probability 1 - (1 - s**7)**18: 0.986 at 0.8, 0.13 at 0.5."""

BAND_FACTORS = np.random.default_rng(0).integers(1 << 63, size=BAND_ROWS, dtype=np.uint64) | np.uint64(1)
"""Odd factors that mix a band's minima into one key; always the same, so that results are."""

NO_MINIMUM = np.uint32(0xFFFFFFFF)
"""Of the empty set."""

SPAN = 16 * CHUNK
"""Texts handed to a worker, and kept, together."""

SPANS_AT_ONCE = 32
"""Spans handed out before the first is asked for, so that a large set's sketches do not queue up in memory."""

PARALLEL_FROM = 20_000
"""Texts from which starting worker processes pays."""

Keys: TypeAlias = NDArray[np.uint32]


class BandKeys:
    """One 32-bit key per LSH band and text, in a temporary file band by band: ten million texts have 720 MB of them."""

    def __init__(self, texts: int) -> None:
        self._texts = texts
        self._file = tempfile.TemporaryFile(prefix="tunesmith-", buffering=0)  # noqa: SIM115  # vanishes with the object

    def put(self, start: int, keys: Keys) -> None:
        """Keep the keys, (bands, chunk), of the texts from `start` on."""
        for band, chunk in enumerate(keys):
            self._file.seek(4 * (band * self._texts + start))
            self._file.write(chunk.tobytes())

    def band(self, band: int) -> Keys:
        """The keys of one band, (texts,)."""
        self._file.seek(4 * band * self._texts)
        return np.fromfile(self._file, np.uint32, self._texts)


@dataclass(frozen=True, eq=False)
class Sketches:
    """What texts are compared by: a hash each, equal for equal texts, the keys of their bands, and their shingles.

    A text is what the `columns` say of it together. Chance collisions of keys cost a verification, never a pair.
    """

    columns: tuple[Sequence[str], ...]
    templates: tuple[Template, ...]
    hashes: Integers  # (texts,); 0 for an empty text of one column
    keys: BandKeys

    def __len__(self) -> int:
        return len(self.hashes)

    def shingle_sets(self, indices: Sequence[int]) -> list[Hashes]:
        """The set of shingles, sorted, of each text asked for."""
        columns = [
            shingle_lists(normalize_each([column[index] for index in indices]), template)
            for column, template in zip(self.columns, self.templates, strict=True)
        ]
        return [sorted_set(np.concatenate(parts)) for parts in zip(*columns, strict=True)]


def sketch(texts: Sequence[str]) -> Sketches:
    """Sketches of `texts`, which are indexed, not copied, so they may be a lazy sequence over a file."""
    return _sketch((texts,), None)[0]


def sketch_rows(
    inputs: Sequence[str], outputs: Sequence[str], contexts: NDArray[np.uint32]
) -> tuple[Sketches, Sketches]:
    """Sketches of the inputs, and of whole rows: input and output as one set, equal only in equal contexts."""
    alone, whole = _sketch((inputs, outputs), contexts)
    return alone, whole


def _sketch(columns: tuple[Sequence[str], ...], contexts: NDArray[np.uint32] | None) -> tuple[Sketches, ...]:
    """Sketches of the first column and, where there are contexts, of all columns together."""
    texts = len(columns[0])
    work = _Work(columns, contexts, tuple(template_of(column) for column in columns))
    sketches = tuple(
        Sketches(columns[:width], work.templates[:width], np.empty(texts, np.int64), BandKeys(texts))
        for width in (1, *([] if contexts is None else [len(columns)]))
    )
    starts = range(0, texts, SPAN)
    for start, span in zip(starts, _spans(work, starts), strict=True):
        for made, (hashes, keys) in zip(sketches, span, strict=True):
            made.hashes[start : start + len(hashes)] = hashes
            made.keys.put(start, keys)
    return sketches


@dataclass(frozen=True, eq=False)
class _Work:
    columns: tuple[Sequence[str], ...]
    contexts: NDArray[np.uint32] | None
    templates: tuple[Template, ...]

    def span(self, start: int) -> list[tuple[Integers, Keys]]:
        """The hashes, (texts,), and band keys, (bands, texts), of one span of texts, for each of the sketches."""
        end = min(start + SPAN, len(self.columns[0]))
        chunks = [self._chunk(first) for first in range(start, end, CHUNK)]
        return [
            (np.concatenate([hashes for hashes, _ in sketch]), np.concatenate([keys for _, keys in sketch], axis=1))
            for sketch in zip(*chunks, strict=True)
        ]

    def _chunk(self, start: int) -> list[tuple[Integers, Keys]]:
        place = slice(start, start + CHUNK)
        columns = [normalize_each(column[place]) for column in self.columns]
        minima = [_minima(texts, template) for texts, template in zip(columns, self.templates, strict=True)]
        sketches = [(np.fromiter(map(hash, columns[0]), np.int64), _band_keys(minima[0], start))]
        if self.contexts is not None:
            rows = zip(self.contexts[place].tolist(), *columns, strict=True)
            whole = np.minimum(*minima)
            sketches.append((np.fromiter(map(hash, rows), np.int64), _band_keys(whole, start)))
        return sketches


def _spans(work: _Work, starts: range) -> Iterator[list[tuple[Integers, Keys]]]:
    """What `work` makes of the span at each start, in order, on all cores when there is much to do."""
    # Forked workers see the texts without a copy being sent, and hash as this process does; where forking is not safe
    # one core does it all.
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    if cores == 1 or len(work.columns[0]) < PARALLEL_FROM:
        yield from map(work.span, starts)
        return
    with ProcessPoolExecutor(cores, get_context("fork"), _share_with_worker, (work,)) as pool:
        for first in range(0, len(starts), SPANS_AT_ONCE):
            yield from pool.map(_shared_span, starts[first : first + SPANS_AT_ONCE])


_shared: list[_Work] = []


def _share_with_worker(work: _Work) -> None:
    gc.freeze()  # what the parent made is not looked through, and so not copied, at every collection
    _shared[:] = [work]


def _shared_span(start: int) -> list[tuple[Integers, Keys]]:
    return _shared[0].span(start)


def _minima(texts: Sequence[str], template: Template) -> NDArray[np.uint32]:
    """The MinHash signature of each text, (texts, bands * band rows), 32 bits a minimum."""
    shingles, offsets, is_bare = shingles_of(texts, template)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        shingles, offsets.astype(np.uint64), BANDS * BAND_ROWS, seed=0
    )
    # The matrix only gives Python's numbers; of all ways from those to an array this is the fastest.
    packed = array("I")
    for row in matrix.to_rows():
        packed.fromlist(row)
    minima = np.frombuffer(packed, np.uint32).reshape(len(texts), BANDS * BAND_ROWS)
    return np.where(is_bare[:, None], NO_MINIMUM, minima)


def _band_keys(minima: NDArray[np.uint32], start: int) -> Keys:
    """The keys, (bands, texts), of texts with these minima, the first of which is text `start`."""
    signatures = minima.reshape(-1, BANDS, BAND_ROWS)
    keys: Hashes = signatures @ BAND_FACTORS >> np.uint64(32)  # (texts, bands)
    # A text of nothing but template has no evidence: keys of its own make it like (almost) no other.
    bare = np.flatnonzero(minima[:, 0] == NO_MINIMUM)
    keys[bare] = (start + bare)[:, None]
    return keys.T.astype(np.uint32)
