"""Statistics against closed forms, published examples and exhaustive sums."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.evaluation.result import Estimate
from tunesmith.evaluation.statistics import (
    Z_95,
    mcnemar,
    minimal_detectable_effect,
    paired_bootstrap,
    paired_proportions,
    weighted_mean,
    wilson,
)

outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def paired(both: int, only_tuned: int, only_base: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    tuned = [True] * (both + only_tuned) + [False] * (only_base + neither)
    base = [True] * both + [False] * only_tuned + [True] * only_base + [False] * neither
    return np.array(base), np.array(tuned)


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    estimate = paired_bootstrap(weighted_mean(values), weighted_mean(values + 1.0), 400).base
    half = Z_95 * values.std() / math.sqrt(400)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bootstrap_is_paired_so_a_constant_shift_is_known_exactly() -> None:
    values = np.random.default_rng(2).normal(size=50)
    difference = paired_bootstrap(weighted_mean(values), weighted_mean(values + 0.25), 50).difference
    assert (difference.low, difference.value, difference.high) == pytest.approx((0.25, 0.25, 0.25))


def test_bootstrap_of_a_mean_per_token_weighs_long_rows_more() -> None:
    statistic = weighted_mean(np.array([1.0, 9.0]), per=np.array([1.0, 3.0]))
    assert statistic(np.ones((1, 2)))[0] == 10.0 / 4.0


def test_bootstrap_interval_covers_the_truth_about_95_times_in_100() -> None:
    random = np.random.default_rng(3)
    covered = 0
    for trial in range(300):
        base, tuned = random.exponential(1.0, 80), random.exponential(1.5, 80)
        found = paired_bootstrap(weighted_mean(base), weighted_mean(tuned), 80, replicates=400, seed=trial).difference
        covered += found.low <= 0.5 <= found.high
    assert 0.90 <= covered / 300 <= 0.99


def test_bootstrap_repeats_itself_for_a_seed() -> None:
    values = np.arange(30.0)
    first, second = (paired_bootstrap(weighted_mean(values), weighted_mean(values**2), 30, seed=7) for _ in range(2))
    assert first == second


def test_wilson_matches_the_published_example() -> None:
    # Newcombe (1998), Statistics in Medicine 17:857, table I, method 3: 81/263 and 0/20.
    assert wilson(81, 263) == Estimate(
        pytest.approx(0.3080, abs=5e-5), pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5)
    )
    assert wilson(0, 20).high == pytest.approx(0.1611, abs=5e-5)
    assert wilson(0, 20).low == 0.0


@given(st.integers(1, 500).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_wilson_holds_its_share_within_0_and_1(counts: tuple[int, int]) -> None:
    estimate = wilson(*counts)
    assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 1.0
    assert estimate.low < estimate.high


def test_difference_of_paired_proportions_matches_the_published_example() -> None:
    # Newcombe (1998), Statistics in Medicine 17:2635, table II, method 10: 36, 12, 2, 0 of 50.
    difference = paired_proportions(*paired(36, 12, 2, 0)).difference
    assert difference.value == pytest.approx(0.20)
    assert (difference.low, difference.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@given(outcomes)
def test_difference_of_paired_proportions_is_antisymmetric_and_bounded(rows: list[tuple[bool, bool]]) -> None:
    base, tuned = (np.array(column) for column in zip(*rows, strict=True))
    forth, back = paired_proportions(base, tuned).difference, paired_proportions(tuned, base).difference
    assert (forth.low, forth.value, forth.high) == pytest.approx((-back.high, -back.value, -back.low))
    assert -1.0 - 1e-9 <= forth.low <= forth.value <= forth.high <= 1.0 + 1e-9


def test_agreement_on_every_row_is_not_certainty() -> None:
    difference = paired_proportions(*paired(20, 0, 0, 0)).difference
    assert difference.low < 0.0 < difference.high


@settings(max_examples=200)
@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_the_exact_binomial_test(only_base: int, only_tuned: int) -> None:
    flips = only_base + only_tuned
    tail = sum(math.comb(flips, heads) for heads in range(min(only_base, only_tuned) + 1))
    assert mcnemar(only_base, only_tuned) == pytest.approx(min(1.0, 2 * tail / 2**flips), rel=1e-9)


def test_rows_that_all_differ_alike_do_not_tell_what_they_could_show() -> None:
    assert minimal_detectable_effect(Estimate(0.0, 0.0, 0.0)) is None


def test_minimal_detectable_effect_is_found_four_times_in_five() -> None:
    random = np.random.default_rng(4)
    rows, deviation = 100, 1.0
    half = Z_95 * deviation / math.sqrt(rows)
    effect = minimal_detectable_effect(Estimate(0.0, -half, half))
    samples = random.normal(effect, deviation, size=(4000, rows)).mean(axis=1)
    assert (samples > half).mean() == pytest.approx(0.8, abs=0.03)
