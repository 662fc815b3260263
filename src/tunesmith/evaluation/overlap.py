"""BLEU, chrF and ROUGE, as the libraries that define them compute them: sacrebleu and Google's rouge-score.

BLEU and chrF belong to a whole set of replies, not to a row. The counts of each row are kept, so that a bootstrap adds
counts up instead of tokenizing again; that uses two methods of sacrebleu's that its own significance tests use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.errors import MissingDependencyError
from tunesmith.evaluation.statistics import Statistic, Values, weighted_mean

ROUGE = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class CorpusMetric:
    """A metric of many replies: `statistic` makes it from replies and references; `top` is its best value."""

    name: str
    top: float
    signature: str
    statistic: Callable[[Sequence[str], Sequence[str]], Statistic]


def overlap_metrics() -> list[CorpusMetric]:
    """BLEU, chrF (0 to 100) and the F measures of ROUGE-1, -2 and -L (0 to 1, mean over rows).

    Raises MissingDependencyError without the extra `metrics`.
    """
    try:
        import sacrebleu
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise MissingDependencyError(
            "BLEU, chrF and ROUGE need sacrebleu and rouge-score: pip install 'tunesmith[metrics]'"
        ) from error
    return [
        _sacrebleu("BLEU", sacrebleu.BLEU),
        _sacrebleu("chrF", sacrebleu.CHRF),
        *(_rouge(rouge_scorer.RougeScorer([kind], use_stemmer=False), kind) for kind in ROUGE),
    ]


def _sacrebleu(name: str, make: Callable[[], Any]) -> CorpusMetric:
    def statistic(replies: Sequence[str], references: Sequence[str]) -> Statistic:
        metric = make()
        # (rows, counts): matches, totals and lengths of each row
        counts = np.array(metric._extract_corpus_statistics(replies, [references]), dtype=np.float64)

        def score(weights: Values) -> Values:
            sums = (weights @ counts).round().astype(int)  # (samples, counts)
            return np.array([metric._compute_score_from_stats(row.tolist()).score for row in sums])

        return score

    signed = make()
    signed.corpus_score(["a"], [["a"]])  # the signature counts references, which it learns by scoring
    return CorpusMetric(name, 100.0, str(signed.get_signature()), statistic)


def _rouge(scorer: Any, kind: str) -> CorpusMetric:
    def statistic(replies: Sequence[str], references: Sequence[str]) -> Statistic:
        pairs = zip(references, replies, strict=True)
        return weighted_mean(np.array([scorer.score(*pair)[kind].fmeasure for pair in pairs], dtype=np.float64))

    from importlib.metadata import version

    name = f"ROUGE-{kind.removeprefix('rouge')}"
    return CorpusMetric(name, 1.0, f"rouge-score {version('rouge-score')}, F measure, no stemming", statistic)
