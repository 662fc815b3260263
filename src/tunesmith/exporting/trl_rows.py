"""A run's rows in the columns of TRL's trainers (https://huggingface.co/docs/trl/dataset_formats).

They are written out, as split for the run, because TRL reads neither all formats nor all containers that a run does,
and because its own split would be another. Of a conversation only the last reply is learned there.
"""

from collections.abc import Sequence
from typing import Any

from tunesmith.dataset.containers.json_text import encode
from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.formats.openai import write_messages
from tunesmith.errors import DataError
from tunesmith.spec import DpoSpec, GrpoSpec, ObjectiveSpec, RewardSpec, SftSpec
from tunesmith.training.preference import both_replies, must_be_judged
from tunesmith.training.rewards import columns


def trl_rows(rows: Sequence[Conversation], objective: ObjectiveSpec) -> bytes:
    """`rows` as JSONL for TRL's trainer of `objective`. Raises DataError for rows that it cannot learn from."""
    match objective:
        case DpoSpec(loss_type="kto"):
            must_be_judged(rows)
        case DpoSpec() | RewardSpec():
            both_replies(rows)
        case SftSpec():
            _must_be_of_one_kind(rows)
    return b"".join(encode(_row(row, objective)) + b"\n" for row in rows)


def _row(row: Conversation, objective: ObjectiveSpec) -> dict[str, Any]:
    if row.text is not None and isinstance(objective, SftSpec):
        return {"text": row.text}
    written: dict[str, Any] = {"prompt": write_messages(row.prompt)}
    match objective:
        case GrpoSpec():
            written = {name: values[0] for name, values in columns([row]).items()} | written
        case DpoSpec(loss_type="kto"):
            written |= {"completion": write_messages(row.completion), "label": row.desirable}
        case DpoSpec() | RewardSpec():
            written |= {"chosen": write_messages(row.completion), "rejected": write_messages(row.rejected)}
        case _:
            written["completion"] = write_messages(row.completion)
    if row.tools:
        written["tools"] = list(row.tools)
    return written


def _must_be_of_one_kind(rows: Sequence[Conversation]) -> None:
    other = next((row for row in rows if (row.text is None) != (rows[0].text is None)), None)
    if other is not None:
        raise DataError(f"{other.source}: TRL does not learn from texts and conversations together; convert one kind")
