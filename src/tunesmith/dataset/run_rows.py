"""A run's rows: what `data` in its spec names, split and mixed, for the engine and the hosted providers alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.read import load
from tunesmith.dataset.split import split
from tunesmith.spec import DataSpec


@dataclass(frozen=True, slots=True)
class RunRows:
    """`holdout` is the part of `data.train` that was split off: `validation`, unless the spec names an eval file."""

    train: Sequence[Conversation]
    validation: Sequence[Conversation]
    holdout: Sequence[Conversation]


def read_rows(data: DataSpec, seed: int) -> RunRows:
    """The rows to train on and those to validate on.

    General rows of `data.replay` join the training rows after the split, because they are there to be kept and not
    to be learnt: validation measures the task alone. Replaying a few per cent of earlier data is the oldest remedy
    for forgetting (Robins 1995, "Catastrophic forgetting, rehearsal and pseudorehearsal"; for language models Scialom
    et al. 2022, arXiv:2205.12393, who find 1% enough). Raises DataError naming the line that cannot be read.
    """
    train: Sequence[Conversation] = load(data.train)
    validation: Sequence[Conversation] = ()
    holdout: Sequence[Conversation] = ()
    if data.eval is not None:
        validation = load(data.eval)
    elif data.holdout > 0:
        parts = split(train, data.holdout, seed)
        train, validation, holdout = parts.train, parts.holdout, parts.holdout
    if data.replay is not None:
        train = [*train, *load(data.replay)]
    return RunRows(train, validation, holdout)
