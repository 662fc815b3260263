"""Rows that say the same thing again: exact copies and near-duplicates, which a model memorizes instead of learning.

Rows are compared as input and output together, in the same context (system prompt, tools). Two rows with nearly the
same words but materially different outputs are a contradiction, not a duplicate, and are left to that check.
"""

from dataclasses import dataclass

import numpy as np

from tunesmith.dataset.neardup import connected_components, duplicate_pairs
from tunesmith.quality.check import SHOWN_ROWS, Profile, RowTexts, clean_command, counted, quote
from tunesmith.quality.contradictions import answer, outputs_differ
from tunesmith.quality.report import Finding, RowNote

FAIL_EXACT = 0.1
FAIL_NEAR = 0.3
"""Above these shares of the rows, most of what is learnt is learnt by repetition."""


@dataclass(frozen=True, eq=False)
class DuplicateRows:
    """Each superfluous row with the first row like it: `exact` copies, and `near` ones that are not exact."""

    exact: dict[int, int]
    near: dict[int, int]


def duplicate_rows(rows: RowTexts) -> DuplicateRows:
    """Find the superfluous rows: those that copy, or say with nearly the same words, what an earlier row says."""
    pairs = duplicate_pairs(rows.sketches[1])
    pairs = pairs.where(rows.contexts[pairs.left] == rows.contexts[pairs.right])
    exact = dict(zip(pairs.right[pairs.exact].tolist(), pairs.left[pairs.exact].tolist(), strict=True))
    agreeing = (not outputs_differ(answer(rows, left), answer(rows, right)) for left, right, _ in pairs)
    pairs = pairs.where(np.fromiter(agreeing, np.bool_, len(pairs)) | pairs.exact)
    first = connected_components(len(rows), pairs)
    joined = np.flatnonzero(first != np.arange(len(rows))).tolist()
    near = {index: int(first[index]) for index in joined if index not in exact}
    return DuplicateRows(exact, near)


def duplicates(profile: Profile) -> tuple[Finding, ...]:
    """One finding for exact copies, one for near-duplicates; `count` is the rows that could be dropped."""
    found = duplicate_rows(profile.rows)
    return (
        _finding(profile, "duplicates", found.exact, "copy an earlier row exactly", FAIL_EXACT, "--drop-duplicates"),
        _finding(
            profile,
            "near-duplicates",
            found.near,
            "are nearly the same as an earlier row",
            FAIL_NEAR,
            "--drop-near-duplicates",
        ),
    )


def _finding(profile: Profile, check: str, copies: dict[int, int], what: str, fail: float, flag: str) -> Finding:
    rows = profile.rows
    if not copies:
        return Finding(check, "pass", f"no {check}")
    notes = (
        RowNote(rows.where(copy), f"like {rows.where(kept)}: {quote(rows.inputs[copy] or rows.outputs[copy])}")
        for copy, kept in sorted(copies.items())[:SHOWN_ROWS]
    )
    return Finding(
        check,
        "fail" if len(copies) > fail * len(rows) else "warn",
        counted(len(copies), what, whole=len(rows)),
        count=len(copies),
        rows=tuple(notes),
        mend="keep the first of each; repetition overfits, and copies on both sides of a split hide it",
        command=clean_command(profile.files, flag),
        facts={"share": round(len(copies) / len(rows), 4)},
    )
