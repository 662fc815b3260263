"""Are the inputs of many kinds, or one theme over and over? A model overfits the theme it sees most.

A seeded sample of inputs is clustered by shared words (TF-IDF, SciPy's average linkage on cosine distance), so
the number of clusters follows from the data and one distance. Sampling bounds the time to about a second for any size;
the cost is that themes under about 0.1% of the rows are not seen.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tunesmith.quality.check import Profile, quote, share
from tunesmith.quality.report import Finding, RowNote

if TYPE_CHECKING:
    from scipy.sparse import csr_array

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

    clusters, words = _cluster(texts)
    sizes = np.bincount(clusters)
    shares = sizes / len(texts)
    effective = math.exp(-float(np.sum(shares * np.log(shares))))
    largest = np.argsort(-sizes, kind="stable")[:SHOWN_THEMES].tolist()
    themes = [_theme(np.flatnonzero(clusters == cluster), texts, words[cluster]) for cluster in largest]
    sampled = f" (of {len(texts):,} sampled)" if len(texts) < len(rows) else ""
    finding = (
        f"{len(sizes):,} themes{sampled}, as varied as {effective:.0f} equal ones; the largest "
        f"({', '.join(words[largest[0]][:SHOWN_WORDS])}) has {share(int(sizes[largest[0]]), len(texts))} of the inputs"
    )
    narrow = shares.max() >= WARN_LARGEST or effective < WARN_EFFECTIVE
    members = [places[index] for index in np.flatnonzero(clusters == largest[0]).tolist()] if narrow else []
    return (
        Finding(
            "diversity",
            "warn" if narrow else "pass",
            finding,
            count=round(float(shares.max()) * len(rows)) if narrow else 0,
            rows=tuple(RowNote(rows.where(index), quote(rows.inputs[index])) for index in members[:SHOWN_EXAMPLES]),
            mend="collect inputs of other kinds, or keep fewer of the largest theme" if narrow else None,
            facts={
                "clusters": len(sizes),
                "effective_clusters": round(effective, 2),
                "largest_share": round(float(shares.max()), 4),
                "rows_per_theme": {", ".join(words[c][:2]): int(sizes[c]) for c in np.argsort(-sizes)[:12].tolist()},
                "most_redundant_themes": themes,
            },
        ),
    )


def _cluster(texts: Sequence[str]) -> tuple[NDArray[np.int64], list[list[str]]]:
    """A cluster per text, numbered from 0, and each cluster's most telling words."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.sparse import csr_array

    vectors, names = _tf_idf(texts)
    if not len(names):  # no word at all, or none that not all texts share
        return np.zeros(len(texts), np.int64), [[quote(texts[0], 40)]]
    distances = np.clip(1 - (vectors @ vectors.T).toarray(), 0, 2)
    condensed = distances[np.triu_indices(len(texts), 1)]
    clusters = fcluster(linkage(condensed, "average"), SAME_THEME, "distance").astype(np.int64) - 1
    words = []
    members = csr_array((np.ones(len(texts), np.float32), (clusters, np.arange(len(texts)))))  # (clusters, texts)
    told = (members @ vectors).sorted_indices()  # what the words of each cluster weigh together, (clusters, words)
    for begin, end in itertools.pairwise(told.indptr.tolist()):
        top = begin + np.argsort(-told.data[begin:end], kind="stable")[:SHOWN_WORDS]
        words.append([names[index] for index in told.indices[top].tolist()] or ["no words"])
    return clusters, words


def _tf_idf(texts: Sequence[str]) -> "tuple[csr_array, list[str]]":
    """Each text's words weighed by (1 + log tf) * (1 + log((n + 1)/(df + 1))), of unit length; and the words.

    The weighting of scikit-learn's TfidfVectorizer (sublinear), whose import alone takes longer than this check.
    """
    from scipy.sparse import csr_array

    counts = [Counter(WORD.findall(text.lower())) for text in texts]
    frequency = Counter(word for count in counts for word in count)
    names = [word for word, texts_with in frequency.items() if texts_with <= COMMON_SHARE * len(texts)]
    column = {word: index for index, word in enumerate(names)}
    idf = {word: 1 + math.log((1 + len(texts)) / (1 + frequency[word])) for word in names}
    columns, values, ends = [], [], [0]
    for count in counts:
        weights = {column[word]: (1 + math.log(times)) * idf[word] for word, times in count.items() if word in column}
        length = math.hypot(*weights.values()) or 1
        columns += list(weights)
        values += [weight / length for weight in weights.values()]
        ends.append(len(columns))
    shape = (len(texts), max(len(names), 1))
    return csr_array((np.array(values, np.float32), np.array(columns, np.int32), np.array(ends)), shape), names


def _theme(members: NDArray[np.int64], texts: Sequence[str], words: Sequence[str]) -> list[str]:
    """A theme as texts: its share and words, then examples."""
    head = f"{share(len(members), len(texts))}: {', '.join(words)}"
    return [head, *(quote(texts[index]) for index in members[:SHOWN_EXAMPLES].tolist())]
