"""What a reply is worth against its reference."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.evaluation import metrics

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(st.text(max_size=5), json_values, max_size=4)


def test_few_short_references_are_classification() -> None:
    assert metrics.infer_task(["billing", "Billing.", "bug", "bug", "how to", "how to"] * 3) == "classification"


def test_json_references_are_extraction_even_when_few_are_distinct() -> None:
    assert metrics.infer_task(['{"city": "Rome"}'] * 20) == "extraction"


def test_long_or_distinct_references_are_free_text() -> None:
    assert metrics.infer_task([f"answer number {n}" for n in range(30)]) == "free text"
    assert metrics.infer_task(["one two three four five six seven"] * 30) == "free text"


def test_exact_match_ignores_white_space_only() -> None:
    assert metrics.exact_match(" a\n b ", "a b") == 1.0
    assert metrics.exact_match("A b", "a b") == 0.0


def test_label_match_ignores_case_and_punctuation_at_the_ends() -> None:
    assert metrics.label_match(' "Billing".', "billing") == 1.0
    assert metrics.label_match("billing question", "billing") == 0.0


def test_token_f1_counts_shared_words() -> None:
    # 2 shared of 3 said and 4 expected: precision 2/3, recall 2/4.
    assert metrics.token_f1("the red cat", "The red big dog") == pytest.approx(4 / 7)


@given(st.text(), st.text())
def test_token_f1_is_symmetric_and_1_for_the_same_text(one: str, other: str) -> None:
    assert metrics.token_f1(one, other) == metrics.token_f1(other, one)
    assert metrics.token_f1(one, one) == 1.0


@given(documents)
def test_field_f1_of_a_document_with_itself_is_1_however_it_is_written(document: dict[str, object]) -> None:
    rewritten = json.dumps(dict(reversed(document.items())), indent=2)
    assert metrics.field_f1(rewritten, json.dumps(document)) == 1.0


def test_field_f1_counts_wrong_and_invented_fields() -> None:
    expected = '{"name": "Ann", "age": 30, "tags": ["a", "b"]}'
    assert metrics.field_f1('{"name": "Ann", "age": 31, "tags": ["b", "a"]}', expected) == pytest.approx(6 / 8)
    assert metrics.field_f1('{"name": "Ann", "age": 30.0, "tags": ["a", "b"], "city": "x"}', expected) == pytest.approx(
        8 / 9
    )
    assert metrics.field_f1("name: Ann", expected) == 0.0


def test_a_json_number_is_not_a_boolean() -> None:
    assert metrics.field_f1('{"a": 1}', '{"a": true}') == 0.0


def test_macro_f1_matches_a_worked_example() -> None:
    # a: 2 hits, said 3, expected 2 -> 4/5; b: 0 hits -> 0; c: 1 hit, said 1, expected 2 -> 2/3.
    references = ["a", "a", "b", "c", "c"]
    replies = ["a", "a", "a", "c", "no idea"]
    value = metrics.macro_f1(replies, references)(np.ones((1, 5)))[0]
    assert value == pytest.approx((4 / 5 + 0 + 2 / 3) / 3)


def test_macro_f1_of_a_resample_averages_only_the_classes_in_it() -> None:
    statistic = metrics.macro_f1(["a", "b"], ["a", "b"])
    assert statistic(np.array([[2.0, 0.0]]))[0] == 1.0
    assert math.isclose(statistic(np.array([[1.0, 1.0]]))[0], 1.0)
