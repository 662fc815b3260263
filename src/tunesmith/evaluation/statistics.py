"""How sure a comparison of two models on the same rows is.

Both models answer the same rows, so everything here is paired: the rows' own difficulty cancels out of the
difference. Proportions get closed-form intervals, which stay honest at 0% and 100% where a bootstrap collapses to a
point; every other statistic is bootstrapped, at a cost of `REPLICATES` times the rows in random draws.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluation.result import Estimate

REPLICATES = 2000
"""Bootstrap samples; Efron and Tibshirani (1993, section 14) ask for at least 1000 for percentile intervals."""

Z_95 = 1.959963984540054
"""Standard normal quantile of 97.5%: two-sided 95%."""

Z_POWER_80 = 0.8416212335729143
"""Standard normal quantile of 80%, the customary power."""

LEAST_DISCORDANT = 6
"""Rows that only one of two models gets right, of which an exact McNemar test needs this many for p < 0.05."""

Values: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[Values], Values]
"""From weights (samples, rows), how often each row was drawn, to one value per sample (samples,)."""

_CHUNK_CELLS = 2**22


@dataclass(frozen=True)
class PairedEstimate:
    """A statistic of base and tuned on the same rows, and `difference`, tuned minus base."""

    base: Estimate
    tuned: Estimate
    difference: Estimate


def paired_bootstrap(
    base: Statistic, tuned: Statistic, rows: int, *, replicates: int = REPLICATES, seed: int = 0
) -> PairedEstimate:
    """95% percentile intervals of two statistics and their difference, resampling whole rows for both at once.

    Deterministic in `seed`. Efron and Tibshirani (1993), "An Introduction to the Bootstrap", section 13.3.
    """
    everything = np.ones((1, rows))
    at_base, at_tuned = float(base(everything)[0]), float(tuned(everything)[0])
    draws = [(base(weights), tuned(weights)) for weights in _resamples(rows, replicates, seed)]
    of_base = np.concatenate([draw[0] for draw in draws])
    of_tuned = np.concatenate([draw[1] for draw in draws])
    return PairedEstimate(
        _percentile(at_base, of_base),
        _percentile(at_tuned, of_tuned),
        _percentile(at_tuned - at_base, of_tuned - of_base),
    )


def weighted_mean(values: Values, per: Values | None = None) -> Statistic:
    """The statistic sum(values) / sum(per): the mean when `per` is None, a mean per token when it counts tokens."""
    denominators = np.ones_like(values) if per is None else per
    return lambda weights: (weights @ values) / (weights @ denominators)


def wilson(successes: int, trials: int) -> Estimate:
    """A proportion with its 95% score interval. Wilson (1927), JASA 22:209, https://doi.org/10.2307/2276774."""
    share = successes / trials
    spread = Z_95**2 / trials
    center = (share + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    # At 0 and 1 the bound is the share itself; rounding must not put it on the wrong side.
    return Estimate(share, min(share, max(0.0, center - half)), max(share, min(1.0, center + half)))


def paired_proportions(base: NDArray[np.bool_], tuned: NDArray[np.bool_]) -> PairedEstimate:
    """Two proportions on the same rows, each with its Wilson interval, and the interval of their difference.

    The difference is method 10 of Newcombe (1998), "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17:2635.
    """
    rows = len(base)
    both, neither = int((base & tuned).sum()), int((~base & ~tuned).sum())
    only_tuned, only_base = int((tuned & ~base).sum()), int((base & ~tuned).sum())
    of_tuned, of_base = wilson(both + only_tuned, rows), wilson(both + only_base, rows)
    association = float(both * neither - only_tuned * only_base)
    if association > 0:
        association = max(association - rows / 2, 0.0)  # the paper's continuity correction
    margins = (both + only_tuned) * (only_base + neither) * (both + only_base) * (only_tuned + neither)
    correlation = association / math.sqrt(margins) if margins else 0.0

    def reach(tuned_part: float, base_part: float) -> float:
        return math.sqrt(max(0.0, tuned_part**2 - 2 * correlation * tuned_part * base_part + base_part**2))

    difference = of_tuned.value - of_base.value
    low = difference - reach(of_tuned.value - of_tuned.low, of_base.high - of_base.value)
    high = difference + reach(of_tuned.high - of_tuned.value, of_base.value - of_base.low)
    return PairedEstimate(of_base, of_tuned, Estimate(difference, low, high))


def mcnemar(only_base: int, only_tuned: int) -> float:
    """Two-sided exact p-value that base and tuned are right equally often, from the rows where only one of them is.

    Under the null each such row is a fair coin. McNemar (1947), Psychometrika 12:153; exact form after Cochran (1950).
    """
    discordant = only_base + only_tuned
    log_ways = math.lgamma(discordant + 1) - discordant * math.log(2)
    tail = math.fsum(
        math.exp(log_ways - math.lgamma(right + 1) - math.lgamma(discordant - right + 1))
        for right in range(min(only_base, only_tuned) + 1)
    )
    return min(1.0, 2 * tail)


def paired_permutation(pooled: Statistic, rows: int, *, replicates: int = REPLICATES, seed: int = 0) -> float:
    """Two-sided p-value that the two models are exchangeable: on each row a fair coin swaps their replies.

    `pooled` is the statistic over `2 * rows` rows, the first model's, then the second's. Approximate randomization,
    Noreen (1989), "Computer-Intensive Methods for Testing Hypotheses"; never below 1 / (replicates + 1).
    """
    random = np.random.default_rng(seed)

    def distance(kept: Values) -> Values:
        """The absolute difference after swapping the rows where `kept` (samples, rows) is 0."""
        apart = pooled(np.hstack([kept, 1 - kept])) - pooled(np.hstack([1 - kept, kept]))
        distances: Values = np.abs(apart)
        return distances

    observed = float(distance(np.ones((1, rows)))[0])
    chunk = max(1, _CHUNK_CELLS // rows)
    as_far = 0
    for start in range(0, replicates, chunk):
        kept = random.integers(2, size=(min(chunk, replicates - start), rows)).astype(np.float64)
        # Sums in another order differ in their last digits; a swap that changes nothing is as far as the observed.
        as_far += int((distance(kept) >= observed * (1 - 1e-9)).sum())
    return (1 + as_far) / (replicates + 1)


def part(pooled: Statistic, index: int, of: int) -> Statistic:
    """The statistic of one model's rows, from the pooled statistic of `of` models' rows one after the other."""

    def statistic(weights: Values) -> Values:
        blocks = [np.zeros_like(weights)] * of
        blocks[index] = weights
        return pooled(np.hstack(blocks))

    return statistic


def detectable_share(difference: Estimate, rows: int) -> float:
    """`minimal_detectable_effect` of a proportion: at least what an exact McNemar test could ever call significant.

    That is six rows that only one model gets right (2 / 2**6 < 0.05 < 2 / 2**5).
    """
    return min(1.0, max(minimal_detectable_effect(difference) or 0.0, LEAST_DISCORDANT / rows))


def minimal_detectable_effect(difference: Estimate) -> float | None:
    """The smallest true difference that as many rows as gave `difference` would show with 80% power at the 95% level.

    That is 2.8 standard errors (Bloom 1995, "Minimum Detectable Effects", Evaluation Review 19:547), the standard
    error being read off the interval; None where that is a point, because all rows differ alike.
    """
    if difference.high == difference.low:
        return None
    standard_error = (difference.high - difference.low) / (2 * Z_95)
    return (Z_95 + Z_POWER_80) * standard_error


def _resamples(rows: int, replicates: int, seed: int) -> Iterator[Values]:
    """Draw counts (samples, rows), some samples at a time so that memory does not grow with `rows`."""
    random = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_CELLS // rows)
    for start in range(0, replicates, chunk):
        samples = min(chunk, replicates - start)
        drawn = random.integers(rows, size=(samples, rows)) + np.arange(samples)[:, None] * rows
        yield np.bincount(drawn.ravel(), minlength=samples * rows).reshape(samples, rows).astype(np.float64)


def _percentile(value: float, samples: Values) -> Estimate:
    low, high = np.quantile(samples, [0.025, 0.975])
    return Estimate(value, float(low), float(high))
