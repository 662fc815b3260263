"""How alike two texts are, 0 to 1, by the libraries that define the metrics.

`fuzzy_match` is rapidfuzz's normalized edit similarity, BLEU sacrebleu's of one sentence, GLEU and METEOR are NLTK's
over words, ROUGE is Google's F measure.
"""

from functools import cache
from typing import Any

from rapidfuzz.fuzz import ratio

from tunesmith.errors import MissingDependencyError


def similarity(metric: str, given: str, wanted: str) -> float:
    """`metric` of a text beside the one that was wanted."""
    if metric == "fuzzy_match":
        return float(ratio(given, wanted)) / 100
    if metric == "bleu":
        import sacrebleu

        return min(1.0, float(sacrebleu.sentence_bleu(given, [wanted]).score) / 100)
    if metric.startswith("rouge_"):
        kind = metric.replace("rouge_", "rouge").replace("rougel", "rougeL")
        return float(_rouge(kind).score(wanted, given)[kind].fmeasure)
    if not given.split() or not wanted.split():
        return float(given.split() == wanted.split())
    if metric == "gleu":
        from nltk.translate.gleu_score import sentence_gleu

        return float(sentence_gleu([wanted.split()], given.split()))
    from nltk.translate.meteor_score import single_meteor_score

    return float(single_meteor_score(wanted.split(), given.split()))


def check_metric(metric: str) -> None:
    """Raise MissingDependencyError when `metric` cannot be computed here."""
    try:
        similarity(metric, "one text", "some other")  # METEOR looks for synonyms of what is not the same
    except LookupError as error:
        raise MissingDependencyError(
            "evaluation_metric meteor needs WordNet's data on the server: python -m nltk.downloader wordnet"
        ) from error


@cache
def _rouge(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=False)
