"""Prompt and completion, as text or as messages; with TRL's boolean `label`, a judged reply (KTO's rows).

    {"prompt": "…", "completion": "…"}    {"prompt": [messages], "completion": [messages], "label": true}

Reference: https://huggingface.co/docs/trl/dataset_formats. The other spellings in `PAIRS` are what spreadsheets use;
`text` and `label` is a classification table, whose label is both what to say and the row's class.
"""

from collections.abc import Mapping
from typing import Any

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.formats import features, fields
from tunesmith.dataset.formats.features import Feature
from tunesmith.dataset.formats.fields import Problem, Problems, describe
from tunesmith.dataset.formats.openai import CLASHING_FIELDS, read_messages, read_tools, write_messages

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("input", "output"),
    ("text", "label"),
)
CANNOT_CARRY = (
    features.REJECTED,
    features.TRAINED_TURNS,
    CLASHING_FIELDS,
    Feature("the label", lambda row: row.label is not None and row.desirable is not None),
)


def matches(row: Mapping[str, Any]) -> bool:
    """Whether `row` is meant as this format."""
    return _pair(row) is not None


def read(row: Mapping[str, Any], problems: Problems) -> Conversation:
    """The conversation in `row`."""
    asked, said = _pair(row) or PAIRS[0]
    prompt = _side(row, asked, "user", problems)
    completion = _side(row, said, "assistant", problems)
    if completion and completion[0].role != "assistant":
        problems.append(Problem((said, 0, "role"), describe(completion[0].role), "`assistant`"))
    desirable = row["label"] if isinstance(row.get("label"), bool) else None
    columns = {asked, said, "tools"} | ({"label"} if desirable is not None else set())
    return Conversation(
        messages=(*prompt, *completion),
        completion_start=len(prompt),
        desirable=desirable,
        tools=read_tools(row, (), problems),
        label=fields.label(row),
        metadata=fields.metadata(row, columns),
    )


def write(row: Conversation) -> dict[str, Any]:
    """The row as prompt and completion: plain text where that says it all."""
    prompt, completion = row.prompt, row.completion
    # An empty prompt text means no prompt, so a user turn that says nothing needs the long form.
    plain_prompt = not prompt or (prompt[0].content and prompt == (Message("user", prompt[0].content),))
    written: dict[str, Any] = (
        {"prompt": prompt[0].content if prompt else "", "completion": completion[0].content}
        if plain_prompt and completion == (Message("assistant", completion[0].content),)
        else {"prompt": write_messages(prompt), "completion": write_messages(completion)}
    )
    if row.tools:
        written["tools"] = list(row.tools)
    if row.desirable is not None:
        written["label"] = row.desirable
    return written


def _pair(row: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in PAIRS if pair[0] in row and pair[1] in row), None)


def _side(row: Mapping[str, Any], key: str, role: str, problems: Problems) -> tuple[Message, ...]:
    value = row.get(key)
    if value == [] and role == "user":
        return ()
    if isinstance(value, list):
        return read_messages(row, key, (), problems)
    content = fields.text(row, key, (), problems)
    # An empty prompt is no turn: the completion stands alone.
    return () if role == "user" and not content else (Message(role, content),)  # type: ignore[arg-type]
