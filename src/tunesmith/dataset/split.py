"""Hold rows out for evaluation without leaking them: near-duplicates stay together, labels keep their shares.

Rows are grouped by the near-duplicate cluster of their prompts, so a reworded training question is never an
evaluation question. The cost is that the holdout's size is only as exact as the clusters allow. When one cluster is
nearly everything, identical prompts are kept together instead, and failing that rows are split one by one;
`Split.kept_together` says which.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.neardup import exact_groups, near_duplicate_clusters
from tunesmith.dataset.shingles import Integers
from tunesmith.errors import DataError, SpecError

KeptTogether: TypeAlias = Literal["near-duplicates", "duplicates", "nothing"]

LABEL_CHARACTERS = 40
"""An output longer than this is text, not a class label."""


@dataclass(frozen=True, slots=True)
class Split:
    """The two parts, each in the order of the source, with their 0-based row indices; and what was kept together."""

    train: tuple[Conversation, ...]
    holdout: tuple[Conversation, ...]
    train_rows: tuple[int, ...]
    holdout_rows: tuple[int, ...]
    kept_together: KeptTogether


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """The two files that `split_file` wrote and their numbers of rows."""

    train: Path
    holdout: Path
    train_rows: int
    holdout_rows: int
    kept_together: KeptTogether


def split(rows: Sequence[Conversation], holdout: float, seed: int) -> Split:
    """Split `rows` so that about the share `holdout` of every label is held out and no near-duplicates are parted.

    The same rows, share and seed give the same split; both parts have at least one row.
    Raises SpecError when `holdout` is not between 0 and 1, DataError when there are fewer than two rows.
    """
    if not 0 < holdout < 1:
        raise SpecError(f"holdout: {holdout} is not between 0 and 1; 0.1 to 0.2 is usual")
    if len(rows) < 2:
        raise DataError(f"{len(rows)} row(s) cannot be split into training and holdout; add rows or give an eval file")
    questions = [prompt_text(row) for row in rows]
    labels = infer_labels(rows)
    wanted = min(max(round(holdout * len(rows)), 1), len(rows) - 1)
    groupings: tuple[tuple[KeptTogether, Integers], ...] = (
        ("near-duplicates", near_duplicate_clusters(questions)),
        ("duplicates", exact_groups(questions)),
        ("nothing", np.arange(len(rows))),
    )
    attempts = ((kept, _hold_out(groups.tolist(), labels, wanted, seed)) for kept, groups in groupings)
    kept_together, held = next((kept, held) for kept, held in attempts if 2 * len(held) >= wanted)
    return Split(
        train=tuple(row for index, row in enumerate(rows) if index not in held),
        holdout=tuple(row for index, row in enumerate(rows) if index in held),
        train_rows=tuple(index for index in range(len(rows)) if index not in held),
        holdout_rows=tuple(sorted(held)),
        kept_together=kept_together,
    )


def split_file(source: str | Path, folder: str | Path, *, holdout: float = 0.1, seed: int = 0) -> SplitFiles:
    """Split a data file into `folder`/NAME.train.EXT and NAME.holdout.EXT, in the format of the source.

    Raises DataError when the source has broken rows or too few, SpecError for an impossible share, StorageError
    when the folder cannot be written.
    """
    from tunesmith.dataset.read import load
    from tunesmith.dataset.write import write

    path = Path(source)
    rows = load(source)
    formats = sorted({row.source.format for row in rows if row.source is not None})
    if len(formats) > 1:
        raise DataError(f"{source}: rows in several formats, {', '.join(formats)}; first run tunesmith data convert")
    parts = split(rows, holdout, seed)
    name, ending = ("stdin", ".jsonl") if str(source) == "-" else (path.name.split(".")[0], "".join(path.suffixes))
    train, held = Path(folder) / f"{name}.train{ending}", Path(folder) / f"{name}.holdout{ending}"
    write(train, parts.train, format=formats[0])
    write(held, parts.holdout, format=formats[0])
    return SplitFiles(train, held, len(parts.train), len(parts.holdout), parts.kept_together)


def prompt_text(row: Conversation) -> str:
    """What the row asks, without the system prompt that many rows share; a plain-text row's whole text."""
    if row.text is not None:
        return row.text
    return "\n".join(message.content for message in row.prompt if message.role not in ("system", "developer"))


def infer_labels(rows: Sequence[Conversation]) -> list[str | None]:
    """Each row's class: the label its file names, else its output where that is short and occurs more than once."""
    outputs = [row.label if row.label is not None else _short_output(row) for row in rows]
    counts = Counter(outputs)
    return [output if counts[output] > 1 else None for output in outputs]


def _short_output(row: Conversation) -> str | None:
    output = " ".join(message.content for message in row.completion).strip()
    return output.casefold() if 0 < len(output) <= LABEL_CHARACTERS else None


def _hold_out(groups: list[int], labels: list[str | None], wanted: int, seed: int) -> set[int]:
    """The rows of randomly drawn groups, at most `wanted` of them, shared out by label; fewer when few groups fit."""
    members: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    strata: dict[str | None, list[list[int]]] = defaultdict(list)
    for group_rows in members.values():
        majority = Counter(labels[row] for row in group_rows).most_common(1)[0][0]
        strata[majority].append(group_rows)

    generator = random.Random(seed)  # noqa: S311
    held: set[int] = set()
    seen = 0
    for stratum in sorted(strata, key=lambda label: (label is None, label or "")):
        candidates = strata[stratum]
        generator.shuffle(candidates)
        seen += sum(map(len, candidates))
        # A running quota carries each stratum's rounding to the next, so that the total comes out right.
        quota = round(wanted * seen / len(groups))
        for group_rows in candidates:
            if len(held) + len(group_rows) <= quota:
                held.update(group_rows)
    return held
