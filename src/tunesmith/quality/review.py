"""A random sample for a person to read: no program finds what a minute of reading finds."""

import numpy as np

from tunesmith.quality.check import Profile, quote
from tunesmith.quality.report import Finding, RowNote

REVIEW_ROWS = 20
REVIEW_CHARACTERS = 500
"""How many rows, and how much of each input and output."""


def review(profile: Profile) -> tuple[Finding, ...]:
    """The rows to read, the same ones every time the same rows are checked."""
    rows = profile.rows
    if not len(rows):
        return ()
    chosen = np.random.default_rng(0).choice(len(rows), min(REVIEW_ROWS, len(rows)), replace=False)
    notes = tuple(
        RowNote(
            rows.where(index),
            f"{quote(rows.inputs[index], REVIEW_CHARACTERS)} → {quote(rows.outputs[index], REVIEW_CHARACTERS)}",
        )
        for index in sorted(chosen.tolist())
    )
    finding = f"{len(notes)} rows drawn at random are kept in the report for you to read before training"
    return (Finding("review", "pass", finding, rows=notes),)
