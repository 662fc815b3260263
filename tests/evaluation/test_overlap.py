"""Parity with the libraries that define the metrics: sacrebleu 2.6 and rouge-score 0.1.2, to the last digit."""

import numpy as np
import pytest
import sacrebleu
from rouge_score import rouge_scorer

from tunesmith.evaluation.overlap import CorpusMetric, overlap_metrics

REPLIES = [
    "The cat sat on the mat.",
    "It is raining in Basel today, take an umbrella!",
    "",
    "Zürich liegt am See.",
    "the the the the",
    "She sold 12.5 kg of apples for 3,000 francs.",
]
REFERENCES = [
    "The cat is sitting on the mat.",
    "It rains in Basel today; take an umbrella.",
    "Nothing was said.",
    "Zürich liegt am Zürichsee.",
    "the cat",
    "She sold 12.5 kg of pears for 3,000 francs.",
]
WHOLE = np.ones((1, len(REPLIES)))
TWICE = np.array([[2, 1, 0, 3, 1, 0]], dtype=np.float64)
"""How often each row was drawn in a resample."""


def metric(name: str) -> CorpusMetric:
    return next(found for found in overlap_metrics() if found.name == name)


def value(name: str, weights: np.ndarray) -> float:
    return float(metric(name).statistic(REPLIES, REFERENCES)(weights)[0])


def drawn(texts: list[str]) -> list[str]:
    return [text for text, count in zip(texts, TWICE[0].astype(int), strict=True) for _ in range(count)]


@pytest.mark.parametrize(("name", "reference"), [("BLEU", sacrebleu.corpus_bleu), ("chrF", sacrebleu.corpus_chrf)])
def test_bleu_and_chrf_equal_sacrebleu_on_the_rows_and_on_a_resample(name: str, reference: object) -> None:
    assert value(name, WHOLE) == reference(REPLIES, [REFERENCES]).score  # type: ignore[operator]
    assert value(name, TWICE) == reference(drawn(REPLIES), [drawn(REFERENCES)]).score  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_the_mean_of_rouge_scores_f_measure(kind: str) -> None:
    scorer = rouge_scorer.RougeScorer([kind])
    expected = [scorer.score(r, p)[kind].fmeasure for r, p in zip(REFERENCES, REPLIES, strict=True)]
    assert value(f"ROUGE-{kind.removeprefix('rouge')}", WHOLE) == pytest.approx(np.mean(expected), abs=1e-15)


def test_the_signature_is_sacrebleus_own() -> None:
    bleu = sacrebleu.BLEU()
    bleu.corpus_score(REPLIES, [REFERENCES])
    assert metric("BLEU").signature == str(bleu.get_signature())
    assert "nrefs:1" in metric("chrF").signature
