"""The life of a fine-tuning job: which states there are and which moves between them are legal.

    validating_files → queued → running → succeeded
                          ↑ ↘      ↓ ↑
                          └─ paused     (any state before the end may become failed or cancelled)

The store makes a move with one conditional UPDATE, so two processes cannot both make it.
"""

from typing import Literal, get_args

JobStatus = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]

STATUSES: tuple[JobStatus, ...] = get_args(JobStatus)

TERMINAL: frozenset[JobStatus] = frozenset({"succeeded", "failed", "cancelled"})
"""Nothing leaves these."""

MOVES: dict[JobStatus, frozenset[JobStatus]] = {
    "validating_files": frozenset({"queued", "failed", "cancelled"}),
    "queued": frozenset({"running", "paused", "failed", "cancelled"}),
    "running": frozenset({"succeeded", "paused", "failed", "cancelled"}),
    "paused": frozenset({"queued", "failed", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
"""State → the states it may become."""


def sources(to: JobStatus) -> frozenset[JobStatus]:
    """The states that may become `to`."""
    return frozenset(status for status, targets in MOVES.items() if to in targets)
