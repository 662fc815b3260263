"""Which texts are most like a question: BM25, through bm25s.

Lexical retrieval is the baseline that every embedding has to beat, needs no model and no network, and finds names and
numbers, which is what missing knowledge mostly is. Robertson and Zaragoza (2009), "The Probabilistic Relevance
Framework: BM25 and Beyond". An index costs about as much memory as its text.
"""

import logging
import re
from collections.abc import Sequence

import numpy as np


class Index:
    """Texts that can be searched; `search` gives positions in the order that they were given in."""

    def __init__(self, texts: Sequence[str]) -> None:
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells every indexing step
        import bm25s

        self._bm25 = bm25s.BM25()
        tokens = [_words(text) for text in texts]
        self._empty = not any(tokens)
        if not self._empty:
            self._bm25.index(tokens, show_progress=False)

    def search(self, query: str, count: int) -> list[int]:
        """The positions of the `count` texts most like `query`, best first; only texts that share a word with it."""
        words = [] if self._empty else self._bm25.get_tokens_ids(_words(query))
        if not words:
            return []
        scores = self._bm25.get_scores_from_ids(words)
        # A stable sort, so that equal scores keep the order of the texts.
        best = np.argsort(-scores, kind="stable")[:count]
        return [int(position) for position in best if scores[position] > 0]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
