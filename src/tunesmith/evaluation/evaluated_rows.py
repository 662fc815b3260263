"""Which rows an evaluation asks, and which the run was trained on; the same for local and for hosted models."""

from collections import Counter

import numpy as np

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.read import load
from tunesmith.errors import DataError, RunError
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec

MAX_REPLIES = 256
"""Replies generated per model; a proportion is then known within about 6 points, and a slow model still ends."""

SEED = 0
"""Chooses the rows that get a reply when there are more than are asked."""


def held_out(run: RunFolder, spec: RunSpec) -> str:
    """The file of the rows that the run held out. Raises RunError when it held none out."""
    if run.holdout.is_file():
        return str(run.holdout)
    if spec.data.eval is not None:
        return spec.data.eval
    raise RunError(
        f"{run.root}: the run held no rows out (data.holdout: 0); evaluate on rows it has not seen with --data FILE"
    )


def training_rows(run: RunFolder, spec: RunSpec) -> list[Conversation]:
    """The rows the run was trained on, where their file is still there: those of the file that it did not hold out."""
    try:
        rows = load(spec.data.train)
    except DataError:
        return []
    held_out = Counter(map(_content, load(run.holdout))) if spec.data.eval is None and run.holdout.is_file() else None
    if held_out is None:
        return rows
    trained = []
    for row in rows:
        if held_out[_content(row)]:
            held_out[_content(row)] -= 1
        else:
            trained.append(row)
    return trained


def _content(row: Conversation) -> tuple[object, ...]:
    return row.messages, row.text


def choose(candidates: list[int], most: int) -> list[int]:
    """All of `candidates`, or a seeded sample of `most` in their order."""
    if len(candidates) <= most:
        return candidates
    chosen = np.random.default_rng(SEED).choice(len(candidates), most, replace=False)
    return [candidates[place] for place in sorted(chosen)]
