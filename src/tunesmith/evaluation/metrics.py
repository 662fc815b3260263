"""What a reply is worth against its reference: one function per metric, and the choice of metrics by what the rows are.

The references decide the task: mostly JSON is extraction, few distinct short replies is classification, anything else
is free text. Asking the rows instead of the person keeps the headline metric right when nobody thought about it.
"""

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from tunesmith.evaluation.statistics import Statistic, Values

Task: TypeAlias = Literal["classification", "extraction", "free text"]

JSON_SHARE = 0.9
"""At least this share of the references parses as a JSON object or array: the task is extraction."""

LABEL_WORDS = 5
"""A reference longer than this is not a class label."""

ROWS_PER_LABEL = 3
"""Classification needs at least this many rows per distinct reference, on average."""


def infer_task(references: Sequence[str]) -> Task:
    """The kind of task that `references` are answers to."""
    if sum(parses_as_json(reference) for reference in references) >= JSON_SHARE * max(1, len(references)):
        return "extraction"
    labels = {label(reference) for reference in references}
    short = all(len(name.split()) <= LABEL_WORDS for name in labels)
    return "classification" if short and len(labels) * ROWS_PER_LABEL <= len(references) else "free text"


def normalized(text: str) -> str:
    """`text` with every run of white space as one space, and none at its ends."""
    return " ".join(text.split())


def label(text: str) -> str:
    """`text` as a class label: without case, and without white space and punctuation at its ends."""
    return normalized(text).casefold().strip(string.punctuation + " ")


def exact_match(reply: str, reference: str) -> float:
    """1 when the two are the same but for white space, else 0."""
    return float(normalized(reply) == normalized(reference))


def normalized_match(reply: str, reference: str) -> float:
    """1 when the two are the same but for case, punctuation, articles and white space, else 0.

    The normalization of SQuAD's official evaluation, Rajpurkar et al. (2016), https://arxiv.org/abs/1606.05250.
    """
    return float(_without_form(reply) == _without_form(reference))


def label_match(reply: str, reference: str) -> float:
    """1 when the two name the same class, else 0."""
    return float(label(reply) == label(reference))


def token_f1(reply: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the words the two share, 0 to 1, case ignored.

    Rajpurkar et al. (2016), https://arxiv.org/abs/1606.05250, without its English article removal.
    """
    return _f1(Counter(reply.casefold().split()), Counter(reference.casefold().split()))


def parses_as_json(reply: str) -> bool:
    """Whether the whole reply is a JSON object or array."""
    return _parse(reply) is not None


def field_f1(reply: str, reference: str) -> float:
    """F1 over the (path, value) leaves of two JSON documents, 0 to 1; 0 when the reply is not JSON.

    List elements are matched in any order; numbers that are equal match however they are written.
    """
    found, expected = _parse(reply), _parse(reference)
    if found is None or expected is None:
        return 0.0
    return _f1(Counter(_leaves(found)), Counter(_leaves(expected)))


def macro_f1(replies: Sequence[str], references: Sequence[str]) -> Statistic:
    """The statistic: unweighted mean of the F1 of each class that the references name.

    A reply that names no known class misses its row's class and counts against no other.
    """
    expected = [label(reference) for reference in references]
    said = [label(reply) for reply in replies]
    classes = sorted(set(expected))
    is_class = np.array([[name == row for name in classes] for row in expected], dtype=np.float64)  # (rows, classes)
    says_class = np.array([[name == row for name in classes] for row in said], dtype=np.float64)

    def statistic(weights: Values) -> Values:
        hits = weights @ (is_class * says_class)  # (samples, classes)
        mentions = weights @ (is_class + says_class)
        present = mentions > 0  # a resample may lack a rare class altogether
        scores = 2 * hits / np.where(present, mentions, 1.0)
        means: Values = scores.sum(axis=1) / present.sum(axis=1)
        return means

    return statistic


def confusion(replies: Sequence[str], references: Sequence[str]) -> tuple[tuple[str, ...], list[list[int]]]:
    """The classes that the references name, and how often each (row) was answered with each (column).

    The last column counts the replies that name no class.
    """
    expected = [label(reference) for reference in references]
    classes = tuple(sorted(set(expected)))
    column = {name: index for index, name in enumerate(classes)}
    counts = [[0] * (len(classes) + 1) for _ in classes]
    for reply, name in zip(replies, expected, strict=True):
        counts[column[name]][column.get(label(reply), len(classes))] += 1
    return classes, counts


def scores(metric: Callable[[str, str], float], replies: Sequence[str], references: Sequence[str]) -> Values:
    """The metric of every reply against its reference; (rows,)."""
    return np.array([metric(*pair) for pair in zip(replies, references, strict=True)], dtype=np.float64)


def _without_form(text: str) -> str:
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _f1(found: Counter[Any], expected: Counter[Any]) -> float:
    if not found and not expected:
        return 1.0
    return 2 * (found & expected).total() / (found.total() + expected.total())


def _parse(text: str) -> dict[str, Any] | list[Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _leaves(value: Any, path: str = "$") -> list[tuple[str, object]]:
    if isinstance(value, dict) and value:
        return [leaf for key, child in value.items() for leaf in _leaves(child, f"{path}.{key}")]
    if isinstance(value, list) and value:
        return [leaf for child in value for leaf in _leaves(child, f"{path}[]")]
    if isinstance(value, str):
        return [(path, normalized(value))]
    # `True == 1` in Python, not in JSON.
    return [(path, value if isinstance(value, int | float) and not isinstance(value, bool) else repr(value))]
