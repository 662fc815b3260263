"""Themes are those that SciPy's average linkage finds, without the time that importing SciPy takes."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from tunesmith.quality.diversity import _tf_idf
from tunesmith.quality.linkage import linked


def firsts(clusters: NDArray[np.int32]) -> list[int]:
    """Each point's cluster, named by its first point."""
    _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    named: list[int] = first[inverse].tolist()
    return named


@pytest.mark.parametrize("points", [1, 2, 3, 30, 300])
@pytest.mark.parametrize("farthest", [0.0, 0.05, 0.2, 0.5, 2.0])
def test_clusters_are_scipys(points: int, farthest: float) -> None:
    places = np.random.default_rng(points).random((points, 3))
    distances = np.linalg.norm(places[:, None] - places, axis=2)

    found = linked(distances.copy(), farthest)

    pairs = distances[np.triu_indices(points, 1)]
    plain = fcluster(linkage(pairs, "average"), farthest, "distance") if points > 1 else np.zeros(1, np.int32)
    assert found.tolist() == firsts(plain)


def test_equal_points_are_one_cluster() -> None:
    assert linked(np.zeros((5, 5)), 0.7).tolist() == [0] * 5
    assert linked(np.ones((5, 5)), 0.7).tolist() == [0, 1, 2, 3, 4]


def test_similarities_are_cosines_of_weighted_words(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["the red fox", "the red red fox", "", "a fox and a hen", "the hen", "123 ???"] * 3
    vectors = _tf_idf(texts)
    plain = np.zeros((len(texts), len(vectors.names)))
    for text in range(len(texts)):
        columns, weights = vectors.of(text)
        plain[text, columns] = weights

    whole = vectors.cosines()
    monkeypatch.setattr("tunesmith.quality.diversity.TABLE_CELLS", 4 * len(vectors.names))

    assert np.allclose(whole, plain @ plain.T, atol=1e-6)
    assert np.allclose(vectors.cosines(), whole, atol=1e-6)
    assert vectors.most_telling(np.array([4, 10])) == ["hen", "the"]
    assert vectors.most_telling(np.array([2])) == []
