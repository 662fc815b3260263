from hypothesis import given
from hypothesis import strategies as st

from tunesmith.dataset.nearest import Index


def test_the_text_with_the_rare_word_comes_first() -> None:
    index = Index(["the museum opens at 9", "the library closes at 5", "cats eat mice"])
    assert index.search("when does the museum open", 3)[0] == 0
    assert index.search("what closes at 5?", 1) == [1]


def test_only_texts_that_share_a_word_are_found() -> None:
    assert Index(["cats eat mice", "dogs bark"]).search("mice", 5) == [0]
    assert Index(["cats eat mice"]).search("zebra", 5) == []
    assert Index([]).search("zebra", 5) == []
    assert Index(["...", ""]).search("zebra", 5) == []


@given(st.lists(st.text(max_size=30), max_size=8), st.text(max_size=30), st.integers(1, 10))
def test_any_texts_can_be_searched(texts: list[str], query: str, count: int) -> None:
    found = Index(texts).search(query, count)
    assert len(found) <= count
    assert len(set(found)) == len(found)
    assert all(0 <= position < len(texts) for position in found)
