"""Are the inputs of many kinds, or one theme over and over? A model overfits the theme it sees most.

A seeded sample of inputs is clustered by shared words (TF-IDF, average linkage on cosine distance), so the number of
clusters follows from the data and one distance. Sampling bounds the time to a fraction of a second for any size; the
cost is that themes under about 0.1% of the rows are not seen.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.quality.check import Profile, quote, share
from tunesmith.quality.linkage import linked
from tunesmith.quality.redact import redact_text
from tunesmith.quality.report import Finding, RowNote

SAMPLED_ROWS = 1_500
"""The time of average linkage grows with the square; shares are then known to about 1%."""

COMPARED_CHARACTERS = 500
"""The theme of an input shows in its beginning."""

FEWEST_ROWS = 20
"""Fewer inputs have no distribution to speak of."""

COMMON_SHARE = 0.9
"""A word of more texts than this tells no themes apart."""

WORD = re.compile(r"\w+")

SAME_THEME = 0.7
"""Cosine distance within which clusters are one theme: they share about a third of their weighted words."""

WARN_LARGEST = 0.4
WARN_EFFECTIVE = 5.0
"""One theme fills this share of the rows, or the rows are as uneven as if there were fewer than this many themes."""

TABLE_CELLS = 1 << 24
"""Weights of words by texts that are spread out at once: 64 MB."""

PLOTTED_THEMES = 12
SHOWN_THEMES = 3
SHOWN_EXAMPLES = 3
SHOWN_WORDS = 5


def diversity(profile: Profile) -> tuple[Finding, ...]:
    """Clusters of the inputs: share of the largest, effective number (exponential of the entropy), largest themes."""
    rows = profile.rows
    chosen = np.random.default_rng(0).choice(len(rows), min(SAMPLED_ROWS, len(rows)), replace=False)
    places = [index for index in sorted(chosen.tolist()) if rows.inputs[index].strip()]
    texts = [rows.inputs[index][:COMPARED_CHARACTERS] for index in places]
    if len(texts) < FEWEST_ROWS:
        return ()

    vectors = _tf_idf(texts)
    clusters, sizes = _cluster(vectors)
    shares = sizes / len(texts)
    effective = math.exp(-float(np.sum(shares * np.log(shares))))
    members = [np.flatnonzero(clusters == theme) for theme in np.argsort(-sizes, kind="stable")[:PLOTTED_THEMES]]
    wordless = "no words" if vectors.names else quote(texts[0], 40)
    words = [vectors.most_telling(theme) or [wordless] for theme in members]
    themes = zip(members[:SHOWN_THEMES], words, strict=False)
    sampled = f" (of {len(texts):,} sampled)" if len(texts) < len(rows) else ""
    finding = (
        f"{len(sizes):,} themes{sampled}, as varied as {effective:.0f} equal ones; the largest "
        f"({', '.join(words[0])}) has {share(len(members[0]), len(texts))} of the inputs"
    )
    narrow = shares.max() >= WARN_LARGEST or effective < WARN_EFFECTIVE
    examples = [places[index] for index in members[0][:SHOWN_EXAMPLES].tolist()] if narrow else []
    return (
        Finding(
            "diversity",
            "warn" if narrow else "pass",
            finding,
            count=round(float(shares.max()) * len(rows)) if narrow else 0,
            rows=tuple(RowNote(rows.where(index), quote(rows.inputs[index])) for index in examples),
            mend="collect inputs of other kinds, or keep fewer of the largest theme" if narrow else None,
            facts={
                "clusters": len(sizes),
                "effective_clusters": round(effective, 2),
                "largest_share": round(float(shares.max()), 4),
                "rows_per_theme": {", ".join(told[:2]): len(theme) for told, theme in zip(words, members, strict=True)},
                "most_redundant_themes": [_theme(theme, texts, told) for theme, told in themes],
            },
        ),
    )


@dataclass(frozen=True, eq=False)
class _Vectors:
    """Sparse vectors of unit length, one per text: text i has `weights[ends[i]:ends[i + 1]]` in those `columns`."""

    names: list[str]  # word of each column, in order of appearance
    columns: NDArray[np.int64]
    weights: NDArray[np.float32]
    ends: list[int]  # (texts + 1,)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def of(self, text: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Columns and weights of one text."""
        place = slice(self.ends[text], self.ends[text + 1])
        return self.columns[place], self.weights[place]

    def cosines(self) -> NDArray[np.float64]:
        """The similarity of each text to each, (texts, texts)."""
        cosines = np.empty((len(self), len(self)))
        together = max(TABLE_CELLS // max(len(self.names), 1), 1)
        for start in range(0, len(self), together):
            others = range(start, min(start + together, len(self)))
            table = np.zeros((len(self.names), len(others)), np.float32)  # (words, texts)
            for place, text in enumerate(others):
                columns, weights = self.of(text)
                table[columns, place] = weights
            for text in range(len(self)):
                columns, weights = self.of(text)
                cosines[text, start : others.stop] = weights @ table[columns]
        return cosines

    def most_telling(self, texts: NDArray[np.int64]) -> list[str]:
        """The words that weigh most in `texts` together."""
        found = [self.of(text) for text in texts.tolist()]
        columns, weights = (np.concatenate(parts) for parts in zip(*found, strict=True))
        total = np.bincount(columns, weights, len(self.names))
        return [self.names[column] for column in np.argsort(-total, kind="stable")[:SHOWN_WORDS] if total[column] > 0]


def _cluster(vectors: _Vectors) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A cluster per text, numbered from 0 in order of their first texts, and how many texts each has."""
    if not vectors.names:  # no word at all, or none that not all texts share
        return np.zeros(len(vectors), np.int64), np.array([len(vectors)])
    _, clusters, sizes = np.unique(linked(1 - vectors.cosines(), SAME_THEME), return_inverse=True, return_counts=True)
    return clusters, sizes


def _tf_idf(texts: Sequence[str]) -> _Vectors:
    """Each text's words weighed by (1 + log tf) * (1 + log((n + 1)/(df + 1))).

    The weighting of scikit-learn's TfidfVectorizer (sublinear), whose import alone takes longer than this check.
    """
    counts = [Counter(WORD.findall(text.lower())) for text in texts]
    frequency = Counter(word for count in counts for word in count)
    names = [word for word, texts_with in frequency.items() if texts_with <= COMMON_SHARE * len(texts)]
    column = {word: index for index, word in enumerate(names)}
    idf = {word: 1 + math.log((1 + len(texts)) / (1 + frequency[word])) for word in names}
    columns: list[int] = []
    values: list[float] = []
    ends = [0]
    for count in counts:
        weights = {column[word]: (1 + math.log(times)) * idf[word] for word, times in count.items() if word in column}
        length = math.hypot(*weights.values()) or 1
        columns += weights
        values += [weight / length for weight in weights.values()]
        ends.append(len(columns))
    return _Vectors(names, np.array(columns, np.int64), np.array(values, np.float32), ends)


def _theme(members: NDArray[np.int64], texts: Sequence[str], words: Sequence[str]) -> list[str]:
    """A theme as texts: its share and words, then examples."""
    head = f"{share(len(members), len(texts))}: {', '.join(words)}"
    return [head, *(redact_text(quote(texts[index])) for index in members[:SHOWN_EXAMPLES].tolist())]
