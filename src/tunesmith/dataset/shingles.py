"""Texts as sets of shingles: what near-duplicates are told by.

A text is the set of its 5-byte shingles after folding case, width and whitespace and leaving out punctuation: no
tokenizer, so every language counts alike, and a shingle packs into one integer, so similarities computed from them are
exact. Shingles that most texts share (an instruction template) say nothing about duplication and are left out.
"""

import string
import unicodedata
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Integers: TypeAlias = NDArray[np.int64]
Hashes: TypeAlias = NDArray[np.uint64]
Integer = TypeVar("Integer", np.int64, np.uint64)

SHINGLE_BYTES = 5
"""Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", 3.2.2: 5 characters for short texts."""

TEMPLATE_SHARE = 0.5
TEMPLATE_MINIMUM_TEXTS = 20
TEMPLATE_SAMPLE = 500
"""Shingles in over half of the (sampled) distinct texts are template, once there are enough texts to tell."""

ASCII_PUNCTUATION = string.punctuation.replace("_", "").encode()
OTHER_PUNCTUATION = dict.fromkeys(
    code
    for code in (*range(0xA1, 0xC0), *range(0x2010, 0x2060), *range(0x3001, 0x3040))
    if unicodedata.category(chr(code)).startswith("P")
)
"""Dashes, quotation marks and the like of most scripts; NFKC has made full-width forms ASCII."""

CHUNK = 64
"""Texts per unit of work: half a megabyte of shingles, which stays in the cache."""


def normalize(text: str) -> str:
    """Fold Unicode width and composition (NFKC), case and whitespace, so that equal results mean "the same text"."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    # Most texts have a few kinds of odd space or none; looking for each is a tenth of the cost of splitting.
    if "\n" in text or "  " in text or "\t" in text or "\r" in text or "\0" in text or text != text.strip():
        text = " ".join(text.replace("\0", " ").split())
    return text.casefold()


def normalize_each(texts: Sequence[str]) -> list[str]:
    """`normalize` of each of many texts, in half the time: where they need more than their case folded is seen at once.

    That is wherever a text is not ASCII or, once all stand between spaces, one space follows another or a control
    character stands.
    """
    plain = [text if text.isascii() else "" for text in texts]
    codes = np.frombuffer(f" {' '.join(plain)} ".encode(), np.uint8)
    is_space = codes <= ord(" ")
    is_odd = is_space[1:] & is_space[:-1]
    is_odd |= codes[1:] < ord(" ")
    folded = [text.casefold() for text in plain]
    odd = np.flatnonzero(is_odd)
    if len(odd) and len(texts):
        ends = np.cumsum([len(text) + 1 for text in plain])
        for index in np.unique(np.searchsorted(ends, odd, side="right")).tolist():
            folded[index] = normalize(texts[index])
    return folded


class Template:
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


def shingles_of(texts: Sequence[str], template: Template) -> tuple[Hashes, Integers, NDArray[np.bool_]]:
    """The shingles of all texts in one array, where each text's begin and end in it, (texts + 1,), and which are bare.

    The texts are normalized, and so hold no NUL. One shorter than a shingle is padded to one. Each shingle is scrambled
    by a bijection, so equal hashes are equal shingles. Those of the template (and those that run into the padding) are
    overwritten by another of the same text, which leaves its set as if they were cut out and costs a third of that; a
    text that has no other is bare, and what stands in its place means nothing.
    """
    padding = bytes(SHINGLE_BYTES - 1)
    buffer = _without_punctuation(texts, padding.decode()) + padding
    windows = np.ndarray(len(buffer), "<u8", buffer + bytes(8), strides=(1,))
    shingles: Hashes = windows & np.uint64((1 << 8 * SHINGLE_BYTES) - 1)
    shingles *= np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: an odd factor, so nothing collides
    shingles ^= shingles >> np.uint64(32)
    paddings = np.flatnonzero(np.frombuffer(buffer, np.uint8) == 0)
    offsets = np.concatenate([[0], paddings[len(padding) - 1 :: len(padding)] + 1])

    removed = template.places_in(shingles)
    begins, lengths = offsets[:-1], np.diff(offsets) - len(padding)
    own = np.maximum(lengths - len(padding), np.minimum(lengths, 1))  # shingles that do not run into the padding
    before = np.searchsorted(removed, begins)
    counts = np.searchsorted(removed, offsets[1:]) - before
    # Among the removed, what runs on without a gap from a text's beginning has the same difference of place and rank.
    run = np.searchsorted(removed - np.arange(len(removed)), begins - before, side="right") - before
    another = shingles[np.minimum(begins + run, len(shingles) - 1)]
    shingles[removed] = np.repeat(another, counts)
    padded = offsets[1:, None] - np.arange(1, 2 * SHINGLE_BYTES - 1)
    shingles[np.maximum(padded, (begins + own)[:, None])] = another[:, None]
    return shingles, offsets, run >= own


def _without_punctuation(texts: Sequence[str], between: str) -> bytes:
    """The texts without punctuation, joined by `between`, which holds none."""
    joined = between.join(texts)
    if not joined.isascii():
        joined = between.join([text if text.isascii() else text.translate(OTHER_PUNCTUATION) for text in texts])
    return joined.encode("utf-8", "surrogatepass").translate(None, ASCII_PUNCTUATION)


def shingle_lists(texts: Sequence[str], template: Template) -> list[Hashes]:
    """Each text's shingles without the template's, some of them more than once."""
    lists: list[Hashes] = []
    for start in range(0, len(texts), CHUNK):
        shingles, offsets, bare = shingles_of(texts[start : start + CHUNK], template)
        for begin, end, empty in zip(offsets[:-1].tolist(), offsets[1:].tolist(), bare.tolist(), strict=True):
            lists.append(shingles[begin : begin if empty else end])
    return lists


def shingle_sets(texts: Sequence[str], template: Template) -> list[Hashes]:
    """Each text's set of shingles without the template's, sorted."""
    return [sorted_set(shingles) for shingles in shingle_lists(texts, template)]


def template_of(texts: Sequence[str]) -> Template:
    """The shingles that over `TEMPLATE_SHARE` of an evenly spaced sample of the texts contain."""
    none = Template(np.empty(0, np.uint64))
    chosen = np.unique(np.linspace(0, max(len(texts) - 1, 0), TEMPLATE_SAMPLE).astype(np.int64)).tolist()
    sample = {normalize(texts[index]) for index in chosen} if len(texts) >= TEMPLATE_MINIMUM_TEXTS else set()
    if len(sample) < TEMPLATE_MINIMUM_TEXTS:
        return none
    sets = shingle_sets(list(sample), none)
    shingles, counts = np.unique(np.concatenate(sets), return_counts=True)
    return Template(shingles[counts > TEMPLATE_SHARE * len(sets)])


def sorted_set(hashes: NDArray[Integer]) -> NDArray[Integer]:
    """`hashes` in order, each once (NumPy's `unique` takes far longer)."""
    ordered = np.sort(hashes)
    is_first = np.empty(len(ordered), np.bool_)
    is_first[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]
