import math
import random

import pytest

from tunesmith.advice.reading import READ_CHARACTERS, READ_ROWS, pair_bits_per_byte
from tunesmith.dataset.conversation import Conversation, Message


def texts(count: int, alphabet: str) -> list[Conversation]:
    draw = random.Random(0)
    return [Conversation(text="".join(draw.choices(alphabet, k=READ_CHARACTERS))) for _ in range(count)]


def test_letters_by_chance_need_as_many_bits_as_there_are_letters() -> None:
    assert pair_bits_per_byte(texts(READ_ROWS, "abcdefgh")) == pytest.approx(math.log2(8), rel=0.02)


def test_bits_are_counted_per_byte_whatever_the_script() -> None:
    latin, greek = (pair_bits_per_byte(texts(READ_ROWS, letters)) for letters in ("abcdefgh", "αβγδεζηθ"))
    assert latin is not None and greek == pytest.approx(latin / 2)


def test_what_follows_always_costs_little() -> None:
    sure = pair_bits_per_byte([Conversation(text="ab" * 500)])
    assert sure is not None and sure < 0.05


def test_a_chat_is_read_whole_and_nothing_needs_no_bits() -> None:
    said = Conversation((Message("user", "abab"), Message("assistant", "baba")))
    assert pair_bits_per_byte([said]) == pair_bits_per_byte([Conversation(text="abab\nbaba")])
    assert pair_bits_per_byte([Conversation(text="")]) is None
