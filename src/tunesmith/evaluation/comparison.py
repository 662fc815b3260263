"""Base against tuned, metric by metric: the same rows, paired, each with its 95% interval.

A metric that is 0 or 1 on every row gets the intervals of proportions and McNemar's exact test; the others are
bootstrapped. `method` says which, so that a reader can repeat it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from tunesmith.evaluation import metrics
from tunesmith.evaluation.losses import RowLosses
from tunesmith.evaluation.metrics import Task
from tunesmith.evaluation.result import MetricComparison
from tunesmith.evaluation.statistics import (
    REPLICATES,
    PairedEstimate,
    Statistic,
    Values,
    mcnemar,
    paired_bootstrap,
    paired_proportions,
    weighted_mean,
)

BOOTSTRAP = f"paired bootstrap over rows, {REPLICATES} samples, seed 0"


def compare_replies(
    task: Task, base: Sequence[str], tuned: Sequence[str], references: Sequence[str]
) -> tuple[MetricComparison, ...]:
    """The metrics that suit `task`, the headline first."""
    match task:
        case "classification":
            return (
                _share("accuracy", metrics.label_match, base, tuned, references),
                _bootstrapped(
                    "macro F1",
                    "higher",
                    metrics.macro_f1(base, references),
                    metrics.macro_f1(tuned, references),
                    len(base),
                ),
                _share("exact match", metrics.exact_match, base, tuned, references),
            )
        case "extraction":
            return (
                _mean("field F1", metrics.field_f1, base, tuned, references),
                _share("exact match", metrics.exact_match, base, tuned, references),
                _share("valid JSON", lambda reply, _: float(metrics.parses_as_json(reply)), base, tuned, references),
            )
        case "free text":
            return (
                _mean("token F1", metrics.token_f1, base, tuned, references),
                _share("exact match", metrics.exact_match, base, tuned, references),
            )


def compare_losses(base: RowLosses, tuned: RowLosses) -> tuple[MetricComparison, MetricComparison]:
    """Loss (nats per supervised token) and perplexity, its exponential."""
    before, after = weighted_mean(base.nll, base.tokens), weighted_mean(tuned.nll, tuned.tokens)
    rows = len(base.nll)
    return (
        _bootstrapped("loss", "lower", before, after, rows),
        _bootstrapped("perplexity", "lower", _exponential(before), _exponential(after), rows),
    )


def headline_score(task: Task) -> Callable[[str, str], float]:
    """The per-row score (0 to 1) that the headline metric of `task` is made of."""
    match task:
        case "classification":
            return metrics.label_match
        case "extraction":
            return metrics.field_f1
        case "free text":
            return metrics.token_f1


def _share(
    name: str,
    metric: Callable[[str, str], float],
    base: Sequence[str],
    tuned: Sequence[str],
    references: Sequence[str],
) -> MetricComparison:
    before = metrics.scores(metric, base, references) == 1.0
    after = metrics.scores(metric, tuned, references) == 1.0
    p = mcnemar(int(np.sum(before & ~after)), int(np.sum(after & ~before)))
    method = f"Wilson intervals; difference by Newcombe's method 10; exact McNemar p = {p:.2g}"
    return _comparison(name, "higher", paired_proportions(before, after), len(references), method)


def _mean(
    name: str,
    metric: Callable[[str, str], float],
    base: Sequence[str],
    tuned: Sequence[str],
    references: Sequence[str],
) -> MetricComparison:
    before = weighted_mean(metrics.scores(metric, base, references))
    after = weighted_mean(metrics.scores(metric, tuned, references))
    return _bootstrapped(name, "higher", before, after, len(references))


def _bootstrapped(
    name: str, better: Literal["higher", "lower"], base: Statistic, tuned: Statistic, rows: int
) -> MetricComparison:
    return _comparison(name, better, paired_bootstrap(base, tuned, rows), rows, BOOTSTRAP)


def _comparison(
    name: str, better: Literal["higher", "lower"], paired: PairedEstimate, rows: int, method: str
) -> MetricComparison:
    return MetricComparison(
        name=name,
        better=better,
        base=paired.base,
        tuned=paired.tuned,
        difference=paired.difference,
        significant=paired.difference.low > 0 or paired.difference.high < 0,
        rows=rows,
        method=method,
    )


def _exponential(loss: Statistic) -> Statistic:
    limit = math.log(1e12)  # a perplexity past the number of all words says no more, and JSON has no infinity

    def perplexity(weights: Values) -> Values:
        values: Values = np.exp(np.minimum(loss(weights), limit))
        return values

    return perplexity
