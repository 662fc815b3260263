"""The passages of the documents that may hold the answers."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from tunesmith.errors import DataError

PASSAGE_WORDS = 120
"""Documents are cut at paragraphs into passages of about this many words: DPR used 100 (Karpukhin et al. 2020)."""

DOCUMENT_ENDINGS = (".txt", ".md", ".markdown", ".rst", ".html", ".htm")


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
