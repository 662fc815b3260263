import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.training.shared_prefix import SEGMENT_TOKENS, plant, shared_lengths

# A few tokens only, so that rows begin alike, end inside one another and repeat.
ROWS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=60), min_size=1, max_size=12)


def as_rows(lists: list[list[int]]) -> list[np.ndarray]:
    return [np.array(tokens, dtype=np.int32) for tokens in lists]


@given(ROWS)
def test_every_row_can_be_read_along_its_places(lists: list[list[int]]) -> None:
    forest = plant(as_rows(lists))
    assert [forest.tokens[places].tolist() for places in forest.places] == lists
    assert all((forest.position_ids[places] == np.arange(len(places))).all() for places in forest.places)


@given(ROWS)
def test_what_a_token_sees_is_exactly_its_row_so_far(lists: list[list[int]]) -> None:
    forest = plant(as_rows(lists))
    segment_of = {place: part for part in forest.segments for place in range(part.start, part.end)}
    for places in forest.places:
        for position, place in enumerate(places):
            seen = [at for part in segment_of[place].path for at in range(part.start, min(part.end, place + 1))]
            assert seen == places[: position + 1].tolist()


def test_a_long_common_beginning_is_there_once() -> None:
    head = list(range(100))
    forest = plant(as_rows([[*head, 200, 201], [*head, 300], [*head, 400, 401, 402], [7, 8, 9]]))
    assert len(forest.tokens) == 100 + 2 + 1 + 3 + 3
    assert len(forest.segments) == 5


def test_prefixes_nest() -> None:
    system, few_shot = list(range(50)), list(range(100, 150))
    rows = [[*system, *few_shot, 1], [*system, *few_shot, 2], [*system, 3], [*system, 4]]
    forest = plant(as_rows(rows))
    assert len(forest.tokens) == 50 + 50 + 4


def test_a_beginning_too_short_to_pay_for_a_segment_is_repeated() -> None:
    forest = plant(as_rows([[1] * SEGMENT_TOKENS + [own] * 5 for own in range(2, 6)]))
    assert len(forest.segments) == 4


def test_shared_lengths_count_the_tokens_common_with_the_row_before() -> None:
    assert shared_lengths(as_rows([[1, 2, 3], [1, 2, 4], [1, 2], [5]])).tolist() == [0, 2, 2, 0]


def test_rows_that_each_begin_the_next_are_planted_however_many_they_are() -> None:
    rows = [np.full(length, 7, np.int32) for length in range(1, 1200)]
    forest = plant(rows)
    assert all(np.array_equal(forest.tokens[places], row) for places, row in zip(forest.places, rows, strict=True))
