"""Values equal those of the libraries people check with: scikit-learn, SciPy, bert-score.

BLEU, chrF and ROUGE are held to sacrebleu and rouge-score in `test_overlap.py`, BERTScore's formula in
`test_bertscore.py`.
"""

import random
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, permutation_test
from test_bertscore import encoder  # noqa: F401  # the fixture

from tunesmith.evaluation import metrics
from tunesmith.evaluation.bertscore import BertScore
from tunesmith.evaluation.statistics import mcnemar, paired_bootstrap, paired_permutation, weighted_mean, wilson

CLASSES = ["billing", "shipping", "returns", "account"]


def answered(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Replies and references: two of three replies right, some that name no class."""
    draw = random.Random(seed)
    references = [draw.choice(CLASSES) for _ in range(count)]
    replies = [draw.choice([wanted, wanted, draw.choice([*CLASSES, "no idea"])]) for wanted in references]
    return replies, references


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_scikit_learns_over_the_classes_of_the_references(seed: int) -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    replies, references = answered(40, seed)
    expected = sklearn_metrics.f1_score(references, replies, labels=sorted(set(references)), average="macro")
    assert metrics.macro_f1(replies, references)(np.ones((1, 40)))[0] == pytest.approx(expected, abs=1e-15)


def test_accuracy_and_the_confusion_matrix_are_scikit_learns() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    replies, references = answered(60, 1)
    classes, counts = metrics.confusion(replies, references)
    expected = sklearn_metrics.confusion_matrix(references, replies, labels=[*classes, "no idea"])
    assert counts == expected[: len(classes)].tolist()
    scores = metrics.scores(metrics.label_match, replies, references)
    assert scores.mean() == sklearn_metrics.accuracy_score(references, replies)


@pytest.mark.parametrize(("only_base", "only_tuned"), [(0, 0), (0, 6), (3, 9), (25, 31), (200, 140)])
def test_mcnemar_is_scipys_exact_binomial_test(only_base: int, only_tuned: int) -> None:
    flips = only_base + only_tuned
    expected = 1.0 if flips == 0 else binomtest(only_base, flips, 0.5).pvalue
    assert mcnemar(only_base, only_tuned) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("right", "rows"), [(0, 20), (7, 20), (20, 20), (81, 263)])
def test_wilson_is_scipys_interval(right: int, rows: int) -> None:
    expected = binomtest(right, rows).proportion_ci(method="wilson")
    found = wilson(right, rows)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_permutation_test_is_scipys_up_to_its_random_draws() -> None:
    draw = np.random.default_rng(0)
    base = draw.normal(0.5, 0.2, 60)
    tuned = base + draw.normal(0.05, 0.2, 60)

    def apart(one: np.ndarray, other: np.ndarray) -> float:
        return float(one.mean() - other.mean())

    expected = permutation_test((base, tuned), apart, permutation_type="samples", n_resamples=20_000, rng=1)
    found = paired_permutation(weighted_mean(np.concatenate([base, tuned])), 60, replicates=20_000)
    assert found == pytest.approx(expected.pvalue, abs=0.01)


def test_the_bootstrap_interval_is_scipys_up_to_its_random_draws() -> None:
    draw = np.random.default_rng(0)
    base, tuned = draw.exponential(1.0, 80), draw.exponential(1.3, 80)
    difference = (tuned - base,)
    expected = bootstrap(difference, np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    found = paired_bootstrap(weighted_mean(base), weighted_mean(tuned), 80, replicates=20_000).difference
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_bertscore_is_that_of_the_authors_package(encoder: Path) -> None:  # noqa: F811  # the fixture
    bert_score = pytest.importorskip("bert_score")
    replies = ["the cat sat on a mat", "a dog", "the dog sat"]
    references = ["the cat", "the dog sat on the mat", "the dog sat"]
    _, _, expected = bert_score.score(replies, references, model_type=str(encoder), num_layers=2, lang=None)
    np.testing.assert_allclose(BertScore(str(encoder))(replies, references), expected.numpy(), atol=1e-6)
