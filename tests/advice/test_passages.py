from pathlib import Path

import pytest

from tunesmith.advice.passages import PASSAGE_WORDS, read_passages
from tunesmith.errors import DataError


def test_documents_are_cut_into_passages_that_lose_no_word(tmp_path: Path) -> None:
    paragraphs = [" ".join(f"w{number}" for number in range(start, start + 50)) for start in range(0, 500, 50)]
    long = " ".join(f"v{number}" for number in range(400))
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.md").write_text("\n\n".join(paragraphs))
    (tmp_path / "sub" / "b.txt").write_text(long)
    (tmp_path / "c.bin").write_bytes(b"\xff\xfe")
    passages = read_passages(tmp_path)
    assert " ".join(passages).split() == [*" ".join(paragraphs).split(), *long.split()]
    assert max(len(passage.split()) for passage in passages) <= PASSAGE_WORDS


def test_of_a_web_page_only_what_a_reader_sees_is_taken(tmp_path: Path) -> None:
    page = (
        "<html><head><title>no</title><style>p {}</style></head><body><p>The code</p><p>is 7&amp;8.</p></body></html>"
    )
    (tmp_path / "page.html").write_text(page)
    assert read_passages(tmp_path / "page.html") == ["The code is 7&8."]


@pytest.mark.parametrize("name", ["nothing-there", "empty"])
def test_a_place_without_documents_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=name):
        read_passages(tmp_path / name)


def test_a_document_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    with pytest.raises(DataError, match=r"a\.txt.*byte 3"):
        read_passages(tmp_path)
