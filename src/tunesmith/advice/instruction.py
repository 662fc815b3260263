"""The instruction that the data implies.

It is what a careful person would write after reading the rows: the labels, the keys and their types, the
length and the turns of phrase. It is made of counted facts only, so measuring it costs nobody's time; a gifted prompt
writer may still do better, which the advice says.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tunesmith.evaluation.metrics import Task, label

LISTED_LABELS = 60
"""More labels than this make an instruction that is mostly list; the most frequent are named."""

CLOSED_VALUES = 10
"""A JSON field with at most this many different values has them listed."""

COMMON = 0.6
"""A key, or a way to begin or end, that this share of the outputs has in common is part of the form."""

OPENING_WORDS = 4
"""Longest common opening or ending that is looked for, in words."""


def write_instruction(task: Task, references: Sequence[str]) -> str:
    """The instruction that the facts of `references` (the training outputs) make, one fact a sentence."""
    match task:
        case "classification":
            return _labels(references)
        case "extraction":
            return _keys(references)
        case "free text":
            return _form(references)


def _labels(references: Sequence[str]) -> str:
    spellings: dict[str, Counter[str]] = {}
    for text in references:
        spellings.setdefault(label(text), Counter())[text.strip()] += 1
    by_count = sorted(spellings.items(), key=lambda item: (-item[1].total(), item[0]))
    names = [spelling.most_common(1)[0][0] for _, spelling in by_count[:LISTED_LABELS]]
    return f"Answer with exactly one of these labels and nothing else: {', '.join(names)}."


def _keys(references: Sequence[str]) -> str:
    rows = [value for value in map(_object, references) if value is not None]
    if not rows:
        return "Answer with JSON and nothing else."
    counts = Counter(key for row in rows for key in row)
    described = []
    for key, count in counts.items():  # in the order of first appearance, which is the order of the outputs
        values = [row[key] for row in rows if key in row]
        optional = "" if count >= 0.95 * len(rows) else ", left out where it does not apply"
        if count >= 0.02 * len(rows):
            described.append(f'"{key}" ({_kind(values)}{optional})')
    return f"Answer with one JSON object and nothing else. Its keys, in this order: {', '.join(described)}."


def _kind(values: Sequence[Any]) -> str:
    kinds = Counter(_json_type(value) for value in values)
    texts = Counter(value for value in values if isinstance(value, str))
    if kinds.most_common(1)[0][0] == "string" and 1 < len(texts) <= CLOSED_VALUES and texts.total() > 3 * len(texts):
        return f"one of {', '.join(sorted(texts))}"
    return " or ".join(kind for kind, _ in kinds.most_common(2))


def _json_type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "list"
        case _:
            return "object"


def _form(references: Sequence[str]) -> str:
    words = [len(text.split()) for text in references]
    low, high = (int(value) for value in np.percentile(words, [10, 90]))
    facts = [f"Answer in {low} to {high} words." if low < high else f"Answer in {low} words."]
    if all("\n" not in text for text in references):
        facts[0] = facts[0].removesuffix(".") + ", on one line."
    if openings := common_openings(references):
        facts.append(f"Begin with {_one_of(openings)}.")
    if endings := common_openings([" ".join(reversed(text.split())) for text in references]):
        facts.append(f"End with {_one_of([' '.join(reversed(ending.split())) for ending in endings])}")
    if sum(text.lstrip().startswith(("- ", "* ", "1. ")) for text in references) > COMMON * len(references):
        facts.append("Answer as a list.")
    facts.append("Give the answer alone, without comments.")
    return " ".join(facts)


def common_openings(texts: Sequence[str]) -> list[str]:
    """The openings, as long as can be, that cover most of `texts` with at most five; empty when there are none."""
    for size in range(OPENING_WORDS, 0, -1):
        counts = Counter(" ".join(text.split()[:size]) for text in texts if len(text.split()) >= size)
        common = [(opening, count) for opening, count in counts.most_common(5) if count >= 0.05 * len(texts)]
        if sum(count for _, count in common) >= COMMON * len(texts):
            return [opening for opening, _ in common]
    return []


def _one_of(phrases: Sequence[str]) -> str:
    quoted = [f'"{re.sub(r"[.]$", "", phrase)}"' for phrase in phrases]
    return quoted[0] if len(quoted) == 1 else f"one of {', '.join(quoted)}"


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
