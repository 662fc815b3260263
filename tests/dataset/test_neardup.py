import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rensa import RMinHash

from tunesmith.dataset.neardup import (
    BUCKET_WINDOW,
    DuplicatePairs,
    connected_components,
    duplicate_pairs,
    exact_groups,
    near_duplicate_clusters,
)
from tunesmith.dataset.shingles import normalize
from tunesmith.dataset.sketch import BANDS, sketch, sketch_rows


def random_texts(count: int, words: int, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    vocabulary = [
        "".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(3, 9))) for _ in range(999)
    ]
    return [" ".join(generator.choices(vocabulary, k=words)) for _ in range(count)]


def with_a_typo(text: str, seed: int) -> str:
    position = random.Random(seed).randrange(len(text))
    return text[:position] + "#" + text[position + 1 :]


def jaccard(one: str, other: str) -> float:
    folded = [" ".join("".join(c for c in text.lower() if c.isalnum() or c == " ").split()) for text in (one, other)]
    a, b = ({text[i : i + 5] for i in range(len(text) - 4)} for text in folded)
    return len(a & b) / len(a | b)


def test_case_width_and_whitespace_do_not_make_texts_different() -> None:
    assert normalize("  \uff28ello\n\tWORLD ") == normalize("hello world")
    assert exact_groups(["b", "Hello  world", "hello\nWORLD", "B"]).tolist() == [0, 1, 1, 0]


def test_every_planted_near_duplicate_is_found_and_nothing_else() -> None:
    originals = random_texts(300, words=30)
    copies = [with_a_typo(text, seed) for seed, text in enumerate(originals[:100])]
    pairs = duplicate_pairs(sketch(originals + copies))
    assert {(left, right) for left, right, _ in pairs} == {(index, 300 + index) for index in range(100)}


def test_the_similarity_of_a_pair_is_its_exact_jaccard_similarity() -> None:
    text = random_texts(1, words=20)[0]
    copy = with_a_typo(text, seed=1)
    [(left, right, similarity)] = duplicate_pairs(sketch([text, copy]))
    assert (left, right) == (0, 1)
    assert similarity == jaccard(text, copy)


def test_punctuation_makes_no_text_another() -> None:
    plain = "a short question about the price of two apples and a pear"
    marked = "A short question, about the price of two apples (and a pear)?"
    quoted = "“A short question” about the price of two apples… and a pear!"
    assert [similarity for _, _, similarity in duplicate_pairs(sketch([plain, marked, quoted]))] == [1.0, 1.0, 1.0]
    assert not duplicate_pairs(sketch([plain, marked, quoted])).exact.any()


def test_exact_copies_are_paired_with_the_first_of_them() -> None:
    pairs = duplicate_pairs(sketch(["same text", "other words entirely", "Same  text", "same text"]))
    assert list(pairs) == [(0, 2, 1.0), (0, 3, 1.0)]


def test_empty_texts_are_duplicates_of_nothing() -> None:
    assert len(duplicate_pairs(sketch(["", " ", "", "\n"]))) == 0
    assert len(duplicate_pairs(sketch([]))) == 0


def test_texts_that_share_only_a_template_are_not_near_duplicates() -> None:
    template = "You are given a customer message. Decide whether it is about billing, shipping or returns. Message: "
    texts = [template + text for text in random_texts(50, words=5)]
    assert len(duplicate_pairs(sketch(texts))) == 0
    assert list(near_duplicate_clusters([*texts, texts[7] + "."])[[7, 50]]) == [7, 7]


def test_a_bucket_larger_than_the_window_is_still_one_cluster() -> None:
    text = random_texts(1, words=60)[0]
    copies = [with_a_typo(text, seed) for seed in range(3 * BUCKET_WINDOW)]
    padding = random_texts(4 * BUCKET_WINDOW, words=60, seed=1)
    clusters = near_duplicate_clusters([text, *copies, *padding])
    assert set(clusters[: len(copies) + 1].tolist()) == {0}


def test_components_follow_chains_of_pairs() -> None:
    pairs = DuplicatePairs(np.array([1, 2, 5]), np.array([2, 4, 6]), np.ones(3), np.zeros(3, np.bool_))
    assert connected_components(7, pairs).tolist() == [0, 1, 1, 3, 1, 5, 5]


@given(st.lists(st.text(max_size=40), max_size=12))
def test_any_texts_give_ordered_verified_pairs(texts: list[str]) -> None:
    pairs = duplicate_pairs(sketch(texts))
    assert all(left < right for left, right, _ in pairs)
    assert all(0.8 <= similarity <= 1 for similarity in pairs.similarity)
    assert len(near_duplicate_clusters(texts)) == len(texts)


def test_a_row_is_sketched_as_the_union_of_its_input_and_output() -> None:
    inputs = [*random_texts(30, words=20, seed=1), "", "ab"]
    outputs = [*random_texts(30, words=60, seed=2), "ab", ""]

    alone, whole = sketch_rows(inputs, outputs, np.zeros(len(inputs), np.uint32))
    plain = sketch(inputs)

    assert np.array_equal(alone.hashes, plain.hashes)
    assert all(np.array_equal(alone.keys.band(band), plain.keys.band(band)) for band in range(BANDS))
    places = range(len(inputs))
    parts = zip(alone.shingle_sets(places), sketch(outputs).shingle_sets(places), strict=True)
    for both, (asked, said) in zip(whole.shingle_sets(places), parts, strict=True):
        assert set(both.tolist()) == set(asked.tolist()) | set(said.tolist())


def test_the_minima_of_a_union_are_the_smaller_of_its_parts() -> None:
    random = np.random.default_rng(0)
    for sizes in [(1, 1), (3, 40), (100, 300), (2, 2_000), (700, 900)]:
        one, other = (random.integers(1 << 63, size=size, dtype=np.uint64) for size in sizes)
        tokens = np.concatenate([one, other, one, other])
        ends = np.array([0, sizes[0], sum(sizes), 2 * sum(sizes)], np.uint64)
        first, second, union = RMinHash.digest_matrix_from_flat_token_hashes(tokens, ends, 126, seed=0).to_rows()
        assert union == np.minimum(first, second).tolist()


def test_rows_are_equal_only_in_equal_contexts() -> None:
    pairs = duplicate_pairs(sketch_rows(["a?"] * 3, ["b!"] * 3, np.array([7, 8, 7], np.uint32))[1])

    assert [(left, right) for left, right, _ in pairs.where(pairs.exact)] == [(0, 2)]
