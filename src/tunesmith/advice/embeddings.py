"""Retrieval by meaning, beside BM25: a sentence-embedding model that the person names, and exact cosine similarity.

Every passage is compared with every question, which is exact and, up to some hundred thousand passages, fast; the
model's own time is what it costs.
"""

from collections.abc import Sequence

import numpy as np

from tunesmith.quality.semantic import embed, load_encoder


class Embeddings:
    """The model `ref`, a folder or a hub id. Raises ModelError when it cannot be loaded."""

    def __init__(self, ref: str) -> None:
        self._encode = load_encoder(ref, flag="--embeddings")

    def nearest(self, texts: Sequence[str], questions: Sequence[str], count: int) -> list[list[int]]:
        """For each question the positions of the `count` texts most like it, best first."""
        alike = embed(self._encode, questions) @ embed(self._encode, texts).T  # (questions, texts)
        return [[int(position) for position in row[:count]] for row in np.argsort(-alike, axis=1, kind="stable")]
