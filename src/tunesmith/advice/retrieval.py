"""What a question is like: BM25 over documents or over training rows, through bm25s.

Lexical retrieval is the baseline that every embedding has to beat, needs no model and no network, and finds names and
numbers, which is what missing knowledge mostly is. Robertson and Zaragoza (2009), "The Probabilistic Relevance
Framework: BM25 and Beyond". An index costs about as much memory as its text.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from tunesmith.errors import DataError

PASSAGE_WORDS = 120
"""Documents are cut at paragraphs into passages of about this many words: DPR used 100 (Karpukhin et al. 2020)."""

DOCUMENT_ENDINGS = (".txt", ".md", ".markdown", ".rst", ".html", ".htm")


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


def read_passages(place: str | Path) -> list[str]:
    """The passages of a document or of all documents below a folder, in the order of their paths.

    Raises DataError when there is no document or one cannot be read as text.
    """
    root = Path(place)
    if root.is_file():
        files = [root]
    else:
        files = sorted(path for path in root.rglob("*") if path.suffix.lower() in DOCUMENT_ENDINGS and path.is_file())
    if not files:
        wanted = ", ".join(DOCUMENT_ENDINGS)
        raise DataError(f"--docs {place}: no documents there; give a file or a folder that holds {wanted}")
    passages = [passage for file in files for passage in _passages(_text(file))]
    if not passages:
        raise DataError(f"--docs {place}: the documents hold no text")
    return passages


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: not UTF-8 text (byte {error.start}); convert it, or leave it out of --docs"
        ) from error
    except OSError as error:
        raise DataError(f"{file}: cannot read: {error.strerror}") from error
    return _without_tags(text) if file.suffix.lower() in (".html", ".htm") else text


def _passages(text: str) -> Iterator[str]:
    """Whole paragraphs up to `PASSAGE_WORDS`; a longer paragraph is cut by words."""
    gathered: list[str] = []
    for paragraph in text.split("\n\n"):
        words = paragraph.split()
        if gathered and len(gathered) + len(words) > PASSAGE_WORDS:
            yield " ".join(gathered)
            gathered = []
        gathered += words
        while len(gathered) > PASSAGE_WORDS:
            yield " ".join(gathered[:PASSAGE_WORDS])
            gathered = gathered[PASSAGE_WORDS:]
    if gathered:
        yield " ".join(gathered)


class _Text(HTMLParser):
    """The text that a reader sees; block elements end a paragraph."""

    HIDDEN = ("script", "style", "head")
    BLOCKS = ("p", "div", "li", "tr", "br", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "td")

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Note what starts."""
        self._hidden += tag in self.HIDDEN
        if tag in self.BLOCKS:
            self.parts.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        """Note what ends."""
        self._hidden -= tag in self.HIDDEN and self._hidden > 0

    def handle_data(self, data: str) -> None:
        """Gather visible text."""
        if not self._hidden:
            self.parts.append(data)


def _without_tags(html: str) -> str:
    parser = _Text()
    parser.feed(html)
    return "".join(parser.parts)
