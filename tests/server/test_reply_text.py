"""Streamed text: whole characters, nothing past a stop sequence, nothing lost."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tunesmith.models.load import load_tokenizer
from tunesmith.server.text import TextStream

TOKENIZER = load_tokenizer("embedded")


def stream(text: str, stops: list[str]) -> tuple[list[str], bool]:
    made = TextStream(TOKENIZER, stops)
    pieces = []
    # Spelled out, so that a text which names a special token is text.
    for token in TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True):
        pieces.append(made.add(token))
        if made.stopped:
            return pieces, True
    return [*pieces, made.flush()], False


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=40))
@example("<|im_end|>")
def test_the_pieces_add_up_to_the_text(text: str) -> None:
    pieces, stopped = stream(text, [])
    assert "".join(pieces) == text
    assert not stopped


@given(st.text(alphabet="ab ", max_size=30), st.text(alphabet="ab ", min_size=1, max_size=4))
def test_text_ends_before_the_first_stop_sequence(text: str, stop: str) -> None:
    pieces, stopped = stream(text, [stop])
    assert stopped == (stop in text)
    assert "".join(pieces) == text.partition(stop)[0]


def test_of_several_stop_sequences_the_earliest_ends_the_text() -> None:
    pieces, stopped = stream("one, two. three", [".", ","])
    assert stopped
    assert "".join(pieces) == "one"


@pytest.mark.parametrize("text", ["Grüße", "日本語", "😀😀"])
def test_no_piece_holds_half_a_character(text: str) -> None:
    pieces, _ = stream(text, [])
    assert all("\ufffd" not in piece for piece in pieces)
