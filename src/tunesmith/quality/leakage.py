"""Evaluation rows that the model has seen in training: their score measures memory, not skill.

Inputs are compared, not answers: a question seen in training leaks whatever its answer was there. Plain-text rows are
compared whole.
"""

import numpy as np

from tunesmith.dataset.neardup import LazyTexts, duplicate_pairs
from tunesmith.dataset.sketch import sketch
from tunesmith.quality.check import SHOWN_ROWS, Profile, RowTexts, counted, quote
from tunesmith.quality.questions import short_questions_alike
from tunesmith.quality.report import Finding, RowNote

FAIL_SHARE = 0.01
"""Above this share of leaked rows an evaluation is not worth reading."""


def leaked_rows(training: RowTexts, evaluation: RowTexts) -> dict[int, int]:
    """Each evaluation row whose input is (nearly) that of a training row, with the first such training row."""
    size = len(training)

    def question(index: int) -> str:
        rows, position = (training, index) if index < size else (evaluation, index - size)
        return rows.inputs[position] or rows.outputs[position]

    questions = LazyTexts(size + len(evaluation), question)
    pairs = duplicate_pairs(sketch(questions))
    crossing = pairs.where((pairs.left < size) & (pairs.right >= size))
    leaked: dict[int, int] = {}
    for left, right, _ in crossing:
        leaked.setdefault(right - size, left)
    for left, right in sorted(short_questions_alike(questions)):
        if left < size <= right:
            leaked.setdefault(right - size, left)
    # Only the first of several copies is compared with others, so copies among the evaluation rows inherit.
    copies = pairs.where(np.asarray(pairs.exact) & (pairs.left >= size))
    for left, right, _ in copies:
        if left - size in leaked:
            leaked.setdefault(right - size, leaked[left - size])
    return leaked


def leakage(profile: Profile) -> tuple[Finding, ...]:
    """One finding when there is an evaluation file."""
    evaluation = profile.evaluation
    if evaluation is None:
        return ()
    leaked = leaked_rows(profile.rows, evaluation)
    if not leaked:
        return (
            Finding("leakage", "pass", f"none of the {len(evaluation):,} evaluation rows is in the training files"),
        )
    notes = (
        RowNote(evaluation.where(row), f"trained on as {profile.rows.where(seen)}: {quote(evaluation.inputs[row])}")
        for row, seen in sorted(leaked.items())[:SHOWN_ROWS]
    )
    return (
        Finding(
            "leakage",
            "fail" if len(leaked) > FAIL_SHARE * len(evaluation) else "warn",
            counted(len(leaked), "are (nearly) in the training files", noun="evaluation row", whole=len(evaluation)),
            count=len(leaked),
            rows=tuple(notes),
            mend="remove them from the training files, or split again with `tunesmith data split`",
            facts={"share": round(len(leaked) / len(evaluation), 4)},
        ),
    )
