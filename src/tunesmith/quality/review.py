"""A random sample for a person to read: no program finds what a minute of reading finds."""

from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from tunesmith.quality.check import Profile, RowTexts, quote
from tunesmith.quality.report import Finding, RowNote
from tunesmith.storage import atomic_file

REVIEW_ROWS = 20
REVIEW_CHARACTERS = 500
"""How many rows, and how much of each input and output."""


REVIEW_FILE_ROWS = 100
"""Rows in the file for review: an hour's reading."""


class ReviewRow(Struct, frozen=True):
    """One row of the review file; the reader fills in `verdict` and `comment`."""

    where: str
    input: str
    output: str
    verdict: str = ""
    comment: str = ""


def review(profile: Profile) -> tuple[Finding, ...]:
    """The rows to read, the same ones every time the same rows are checked."""
    rows = profile.rows
    if not len(rows):
        return ()
    notes = tuple(
        RowNote(
            rows.where(index),
            f"{quote(rows.inputs[index], REVIEW_CHARACTERS)} → {quote(rows.outputs[index], REVIEW_CHARACTERS)}",
        )
        for index in _sample(len(rows), REVIEW_ROWS)
    )
    finding = f"{len(notes)} rows drawn at random are kept in the report for you to read before training"
    return (Finding("review", "pass", finding, rows=notes),)


def write_review(rows: RowTexts, path: Path) -> int:
    """Write a random sample of whole rows to `path` as JSONL, for a person to judge; returns how many.

    The same rows give the same sample. Raises StorageError when the disk refuses.
    """
    chosen = _sample(len(rows), REVIEW_FILE_ROWS)
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        for index in chosen:
            row = ReviewRow(rows.where(index), rows.inputs[index], rows.outputs[index])
            stream.write(msgspec.json.encode(row) + b"\n")
    return len(chosen)


def _sample(size: int, wanted: int) -> list[int]:
    chosen: list[int] = np.random.default_rng(0).choice(size, min(wanted, size), replace=False).tolist()
    return sorted(chosen)
