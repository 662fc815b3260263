"""The models metric by metric: the same rows, paired, each with its 95% interval and how sure the difference is.

Tuned is compared with the base, and with the base under the best prompt where there is one. A metric that is 0 or 1 on
every row gets the intervals of proportions and McNemar's exact test; the others are bootstrapped, and tested by
swapping the models' replies. `method` says which, so that a reader can repeat it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypeVar

import msgspec
import numpy as np

from tunesmith.errors import MissingDependencyError
from tunesmith.evaluation import metrics
from tunesmith.evaluation.metrics import Task
from tunesmith.evaluation.overlap import overlap_metrics
from tunesmith.evaluation.result import Confusion, Estimate, MetricComparison
from tunesmith.evaluation.statistics import (
    REPLICATES,
    Statistic,
    Values,
    detectable_share,
    mcnemar,
    minimal_detectable_effect,
    paired_bootstrap,
    paired_permutation,
    paired_proportions,
    part,
    weighted_mean,
)

if TYPE_CHECKING:
    from tunesmith.evaluation.losses import RowLosses

BOOTSTRAP = f"paired bootstrap and permutation test over rows, {REPLICATES} samples, seed 0"
PROPORTIONS = "Wilson intervals; difference by Newcombe's method 10; exact McNemar test"

SMALL_WORDS = 5
"""References shorter than this on average (in words) are labels and facts: n-gram overlap says nothing about them."""

_T_co = TypeVar("_T_co", covariant=True)
Better: TypeAlias = Literal["higher", "lower"]
RowMetric: TypeAlias = Callable[[str, str], float]


@dataclass(frozen=True)
class Systems(Generic[_T_co]):
    """The same thing of each model: the base, the tuned, and the base with the best prompt if there is one."""

    base: _T_co
    tuned: _T_co
    prompted: _T_co | None = None

    def rivals(self) -> list[_T_co]:
        """Those that tuned is compared with: the base, and the prompted base if there is one."""
        return [self.base] if self.prompted is None else [self.base, self.prompted]


Replies: TypeAlias = Systems[Sequence[str]]


@dataclass(frozen=True)
class _Difference:
    """Tuned against one rival: both estimates, their difference, and how sure it is."""

    rival: Estimate
    tuned: Estimate
    difference: Estimate
    p: float
    detectable: float | None


def compare_replies(task: Task, replies: Replies, references: Sequence[str]) -> tuple[MetricComparison, ...]:
    """The metrics of their own that suit `task`, the headline first."""
    match task:
        case "classification":
            return (
                compare_shares("accuracy", metrics.label_match, replies, references),
                compare_corpus("macro F1", metrics.macro_f1, replies, references, top=1.0),
                compare_shares("exact match", metrics.exact_match, replies, references),
            )
        case "extraction":
            return (
                compare_means("field F1", metrics.field_f1, replies, references),
                compare_shares("exact match", metrics.exact_match, replies, references),
                compare_shares("valid JSON", lambda reply, _: metrics.parses_as_json(reply), replies, references),
            )
        case "free text":
            return (
                compare_means("token F1", metrics.token_f1, replies, references),
                compare_shares("exact match", metrics.exact_match, replies, references),
                compare_shares("normalized match", metrics.normalized_match, replies, references),
            )


def compare_overlap(replies: Replies, references: Sequence[str]) -> tuple[list[MetricComparison], list[str]]:
    """BLEU, chrF and ROUGE where the references are long enough to overlap; beside them what was skipped and why."""
    words = sum(len(reference.split()) for reference in references)
    if words < SMALL_WORDS * len(references):
        return [], []
    try:
        found = overlap_metrics()
    except MissingDependencyError as error:
        return [], [str(error)]
    return [
        msgspec.structs.replace(
            compare_corpus(metric.name, metric.statistic, replies, references, top=metric.top),
            signature=metric.signature,
        )
        for metric in found
    ], []


def compare_losses(base: "RowLosses", tuned: "RowLosses") -> tuple[MetricComparison, MetricComparison]:
    """Loss (nats per supervised token) and perplexity, its exponential, of base and tuned."""
    return compare_system_losses(Systems(base, tuned))


def compare_system_losses(losses: "Systems[RowLosses]") -> tuple[MetricComparison, MetricComparison]:
    """Loss (nats per supervised token) and perplexity, its exponential, of every model."""

    def pooled(rival: "RowLosses") -> Statistic:
        nll, tokens = ([*before, *after] for before, after in _columns(rival, losses.tuned))
        return weighted_mean(np.array(nll), np.array(tokens))

    statistics = [pooled(rival) for rival in losses.rivals()]
    rows = len(losses.base.nll)
    loss = _merge("loss", "lower", [_resampled(each, rows) for each in statistics], rows, BOOTSTRAP)
    perplexity = [_resampled(_exponential(each), rows) for each in statistics]
    return loss, _merge("perplexity", "lower", perplexity, rows, BOOTSTRAP)


def compare_shares(
    name: str, metric: RowMetric, replies: Replies, references: Sequence[str], *, better: Better = "higher"
) -> MetricComparison:
    """A metric that is 0 or 1 on every row."""
    return share_comparison(name, _scored(metric, replies, references), better=better)


def compare_means(
    name: str,
    metric: RowMetric,
    replies: Replies,
    references: Sequence[str],
    *,
    better: Better = "higher",
    top: float | None = 1.0,
) -> MetricComparison:
    """The mean of a metric over the rows."""
    return mean_comparison(name, _scored(metric, replies, references), better=better, top=top)


def compare_corpus(
    name: str,
    metric: Callable[[Sequence[str], Sequence[str]], Statistic],
    replies: Replies,
    references: Sequence[str],
    *,
    top: float,
) -> MetricComparison:
    """A metric of all replies together, higher being better; `metric` makes its statistic from replies, references."""
    twice = [*references, *references]
    found = [_resampled(metric([*rival, *replies.tuned], twice), len(references)) for rival in replies.rivals()]
    return _merge(name, "higher", found, len(references), BOOTSTRAP, top=top)


def share_comparison(name: str, scores: Systems[Values], *, better: Better = "higher") -> MetricComparison:
    """The share of rows on which each model scored 1; every score is 0 or 1."""
    tuned = scores.tuned == 1.0
    rows = len(tuned)
    found = []
    for rival in (each == 1.0 for each in scores.rivals()):
        paired = paired_proportions(rival, tuned)
        p = mcnemar(int(np.sum(rival & ~tuned)), int(np.sum(tuned & ~rival)))
        detectable = detectable_share(paired.difference, rows)
        found.append(_Difference(paired.base, paired.tuned, paired.difference, p, detectable))
    return _merge(name, better, found, rows, PROPORTIONS, top=1.0)


def mean_comparison(
    name: str, scores: Systems[Values], *, better: Better = "higher", top: float | None = 1.0
) -> MetricComparison:
    """The mean of each model's scores, one a row."""
    rows = len(scores.tuned)
    found = [_resampled(weighted_mean(np.concatenate([rival, scores.tuned])), rows) for rival in scores.rivals()]
    return _merge(name, better, found, rows, BOOTSTRAP, top=top)


def confusion(replies: Replies, references: Sequence[str]) -> Confusion:
    """How base and tuned confuse the classes."""
    classes, base = metrics.confusion(replies.base, references)
    _, tuned = metrics.confusion(replies.tuned, references)
    return Confusion(classes, tuple(map(tuple, base)), tuple(map(tuple, tuned)))


def headline_score(task: Task) -> Callable[[str, str], float]:
    """The per-row score (0 to 1) that the headline metric of `task` is made of."""
    match task:
        case "classification":
            return metrics.label_match
        case "extraction":
            return metrics.field_f1
        case "free text":
            return metrics.token_f1


def _scored(metric: RowMetric, replies: Replies, references: Sequence[str]) -> Systems[Values]:
    def score(said: Sequence[str]) -> Values:
        return metrics.scores(metric, said, references)

    prompted = None if replies.prompted is None else score(replies.prompted)
    return Systems(score(replies.base), score(replies.tuned), prompted)


def _columns(rival: "RowLosses", tuned: "RowLosses") -> tuple[tuple[Values, Values], tuple[Values, Values]]:
    return (rival.nll, tuned.nll), (rival.tokens, tuned.tokens)


def _resampled(pooled: Statistic, rows: int) -> _Difference:
    """Bootstrap and permutation of a statistic over the rival's rows, then tuned's."""
    paired = paired_bootstrap(part(pooled, 0, 2), part(pooled, 1, 2), rows)
    return _Difference(
        rival=paired.base,
        tuned=paired.tuned,
        difference=paired.difference,
        p=paired_permutation(pooled, rows),
        detectable=minimal_detectable_effect(paired.difference),
    )


def _merge(
    name: str, better: Better, found: Sequence[_Difference], rows: int, method: str, *, top: float | None = None
) -> MetricComparison:
    """The comparison from the differences with the base and, where there is one, with the prompted base."""
    over_base, over_prompted = found[0], found[1] if len(found) > 1 else None
    return MetricComparison(
        name=name,
        better=better,
        base=over_base.rival,
        tuned=over_base.tuned,
        difference=over_base.difference,
        significant=over_base.difference.low > 0 or over_base.difference.high < 0,
        rows=rows,
        method=method,
        top=top,
        p=over_base.p,
        detectable=over_base.detectable,
        prompted=None if over_prompted is None else over_prompted.rival,
        over_prompted=None if over_prompted is None else over_prompted.difference,
        p_over_prompted=None if over_prompted is None else over_prompted.p,
    )


def _exponential(loss: Statistic) -> Statistic:
    limit = math.log(1e12)  # a perplexity past the number of all words says no more, and JSON has no infinity

    def perplexity(weights: Values) -> Values:
        values: Values = np.exp(np.minimum(loss(weights), limit))
        return values

    return perplexity
