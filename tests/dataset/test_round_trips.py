"""Between every two formats a row comes back as it was, or the loss is named and nothing is written unasked."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.convert import convert
from tunesmith.dataset.formats import FORMATS
from tunesmith.dataset.read import load
from tunesmith.dataset.write import write
from tunesmith.errors import DataError

TINY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
CHATS = [name for name in FORMATS if name not in ("preference", "text")]
TEXT = st.sampled_from(
    ["", " ", "yes", "Müller\n\n中文 🎈", "[]", '{"a": 1}', '[{"role": "user", "content": "x"}]', "a,b\t'\"\r\nc"]
)
TEXT |= st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
WORD = st.text("abcdef_", min_size=1, max_size=6)
ARGUMENTS = st.sampled_from(
    ["{}", '{"x": 1}', '{"x":1}', "[1]", "no JSON", '{"x": NaN}', '{"x": 12345678901234567890123}', ""]
)
OPTIONAL = st.none() | WORD


def present(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


CALL = st.builds(
    lambda name, arguments, identity: present(
        {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
    ),
    WORD,
    ARGUMENTS,
    OPTIONAL,
)
EXTRA = st.dictionaries(st.sampled_from(["lang", "id", "from", "value", "type", "text"]), WORD, max_size=1)
ASKED = st.builds(
    lambda content, name, extra: present({"role": "user", "content": content, "name": name}) | extra,
    TEXT,
    OPTIONAL,
    EXTRA,
)
SAID = st.builds(
    lambda content, calls, thinking, weight, extra: (
        present(
            {
                "role": "assistant",
                "content": content,
                "tool_calls": calls or None,
                "reasoning_content": thinking,
                "weight": weight,
            }
        )
        | extra
    ),
    TEXT,
    st.just([]) | st.lists(CALL, max_size=2),
    st.none() | TEXT,
    st.sampled_from([None, None, None, 0, 1]),
    EXTRA,
)
RESULT = st.builds(
    lambda content, identity, extra: present({"role": "tool", "content": content, "tool_call_id": identity}) | extra,
    TEXT,
    OPTIONAL,
    EXTRA,
)
INSTRUCTED = st.builds(
    lambda role, content: {"role": role, "content": content}, st.sampled_from(["system", "developer"]), TEXT
)
TURNS = st.lists(st.one_of(ASKED, SAID, RESULT, INSTRUCTED), max_size=4)
PLAIN_TURNS = st.lists(
    st.tuples(
        TEXT.map(lambda text: {"role": "user", "content": text}),
        TEXT.map(lambda text: {"role": "assistant", "content": text}),
    ),
    min_size=1,
    max_size=3,
).map(lambda pairs: [message for pair in pairs for message in pair])
TOOL = WORD.map(lambda name: {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
COLUMN_NAMES = ["topic", "system", "prompt", "completion", "tools", "label", "input", "history", "chosen", "text"]
COLUMNS = st.just({}) | st.dictionaries(
    st.sampled_from(COLUMN_NAMES), st.one_of(WORD, st.integers(0, 2), st.booleans(), st.none()), max_size=2
)
MESSAGES = st.one_of(
    PLAIN_TURNS,
    st.builds(lambda system, turns: [system, *turns], INSTRUCTED, PLAIN_TURNS),
    st.builds(lambda turns, last: [*turns, last], TURNS, SAID),
    st.builds(lambda turns, last, after: [*turns, last, after], TURNS, SAID, ASKED),
)
ROW = st.one_of(
    st.builds(
        lambda messages, tools, columns: columns | {"messages": messages} | ({"tools": tools} if tools else {}),
        MESSAGES,
        st.just([]) | st.lists(TOOL, max_size=2),
        COLUMNS,
    ),
    st.builds(
        lambda prompt, completion, columns: columns | {"prompt": prompt, "completion": completion}, TEXT, TEXT, COLUMNS
    ),
    st.builds(
        lambda instruction, given, output, columns: (
            columns | {"instruction": instruction, "input": given, "output": output}
        ),
        TEXT,
        TEXT,
        TEXT,
        COLUMNS,
    ),
    st.builds(
        lambda prompt, chosen, rejected, columns: columns | {"prompt": prompt, "chosen": chosen, "rejected": rejected},
        TEXT | PLAIN_TURNS,
        TEXT,
        TEXT,
        COLUMNS,
    ),
    st.builds(lambda text, columns: columns | {"text": text}, TEXT, st.dictionaries(st.just("topic"), WORD)),
)


def meaning(row: Conversation) -> Conversation:
    """The row without its source, `completion_start` as weights that say the same, tool arguments as their value."""
    messages = [
        msgspec.structs.replace(
            message,
            weight=0 if index < (row.completion_start or 0) and message.role == "assistant" else message.weight,
            tool_calls=tuple(
                msgspec.structs.replace(call, arguments=spaced(call.arguments)) for call in message.tool_calls
            ),
        )
        for index, message in enumerate(row.messages)
    ]
    return msgspec.structs.replace(row, messages=tuple(messages), completion_start=None, source=None)


def spaced(arguments: str) -> str:
    """JSON with the usual spaces: some formats hold arguments as objects, not text."""
    try:
        return json.dumps(json.loads(arguments))
    except ValueError:
        return arguments


def load_row(path: Path, row: dict[str, Any]) -> Conversation:
    path.write_text(json.dumps(row) + "\n")
    return load(path)[0]


CONTAINERS = [("openai", "csv"), ("prompt-completion", "tsv"), ("preference", "csv"), ("alpaca", "csv")]
CONTAINERS += [("openai", "parquet"), ("prompt-completion", "parquet"), ("preference", "parquet"), ("text", "txt")]


@pytest.mark.parametrize(("there", "ending"), [*((name, "jsonl") for name in FORMATS), *CONTAINERS])
@settings(TINY, max_examples=60)
@example(row={"messages": [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}]})
@given(row=ROW)
def test_a_converted_row_says_the_same_or_the_loss_is_named_and_nothing_written(
    tmp_path: Path, there: str, ending: str, row: dict[str, Any]
) -> None:
    source, target = tmp_path / "before.jsonl", tmp_path / f"after.{ending}"
    target.unlink(missing_ok=True)
    if ending != "jsonl":  # tables hold text: numbers come back as text, and nulls not at all
        row = {key: value for key, value in row.items() if key not in COLUMN_NAMES or isinstance(value, str | list)}
        row = {key: value for key, value in row.items() if value or key not in COLUMN_NAMES}
    try:
        before = load_row(source, row)
        convert(source, target, to=there)
    except DataError as error:
        assert re.search("cannot carry|this row has no|cannot hold it|found", str(error))
        assert not target.exists()
        return
    assert [meaning(after) for after in load(target)] == [meaning(before)]


ASK = {"role": "user", "content": "a"}
SAY = {"role": "assistant", "content": "b"}
CALLS = {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
FEATURES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "weights": ({"messages": [ASK, SAY | {"weight": 0}, ASK, SAY]}, {"alpaca", "anthropic"}),
    "thinking": ({"messages": [ASK, SAY | {"reasoning_content": "hm"}]}, {"alpaca", "sharegpt"}),
    "tools": ({"messages": [ASK, CALLS, {"role": "tool", "content": "7", "tool_call_id": "1"}, SAY]}, {"alpaca"}),
    "ids of tool calls": ({"messages": [ASK, CALLS]}, {"sharegpt"}),
    "tool arguments that are not a JSON object": (
        {"messages": [ASK, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}]},
        {"anthropic"},
    ),
    "that several calls, or text and a call, are one turn": (
        {"messages": [ASK, {"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}]},
        {"sharegpt"},
    ),
    "names of speakers": ({"messages": [ASK | {"name": "Ada"}, SAY]}, {"alpaca", "anthropic", "sharegpt"}),
    "other fields of messages": ({"messages": [ASK | {"lang": "en"}, SAY]}, {"alpaca"}),
    "fields of messages that mean something else there": (
        {"conversations": [{"from": "human", "value": "a", "content": "x"}, {"from": "gpt", "value": "b"}]},
        {"openai", "anthropic", "prompt-completion"},
    ),
    "that the system text is a developer's": (
        {"messages": [{"role": "developer", "content": "x"}, ASK, SAY]},
        {"alpaca", "anthropic", "sharegpt"},
    ),
    "system text after the first message": (
        {"messages": [ASK, {"role": "system", "content": "x"}, SAY]},
        {"anthropic"},
    ),
    "an empty system text": ({"messages": [{"role": "system", "content": ""}, ASK, SAY]}, {"alpaca", "anthropic"}),
    "turns that are not user and assistant by turns": ({"messages": [ASK, ASK, SAY]}, {"alpaca"}),
    "which assistant turns are trained on": (
        {"prompt": [ASK, SAY, ASK], "completion": [SAY]},
        {"alpaca", "anthropic", "sharegpt"},
    ),
    "that earlier assistant turns are trained on": ({"messages": [ASK, SAY, ASK, SAY]}, {"prompt-completion"}),
    "the rejected reply": ({"prompt": "a", "chosen": "b", "rejected": "c"}, {*CHATS}),
    "the desirable mark": ({"prompt": "a", "completion": "b", "label": True}, {*CHATS} - {"prompt-completion"}),
    "the column `input`, which means something else there": (
        {"prompt": "a", "completion": "b", "input": 1},
        {"alpaca"},
    ),
    "the column `system`, which means something else there": (
        {"prompt": "a", "completion": "b", "system": "x"},
        {"alpaca", "anthropic", "openai", "sharegpt"},
    ),
}


@pytest.mark.parametrize(("feature", "there"), list(itertools.product(FEATURES, CHATS)))
def test_what_a_format_cannot_carry_is_refused_by_name_and_lost_only_when_asked(
    tmp_path: Path, feature: str, there: str
) -> None:
    row, cannot = FEATURES[feature]
    source, target = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    load_row(source, row)
    if there in cannot:
        with pytest.raises(DataError, match=re.escape(f"{feature} in 1 row")):
            convert(source, target, to=there)
        assert not target.exists()
    conversion = convert(source, target, to=there, lossy=True)
    assert (feature in [loss.what for loss in conversion.losses]) == (there in cannot)
    assert len(load(target)) == 1


@pytest.mark.parametrize(
    ("row", "lost"),
    [
        ({"text": "a\nb"}, "line breaks within a text"),
        ({"text": " "}, "an empty text"),
        ({"text": "a", "topic": "b"}, "other columns"),
    ],
)
def test_what_lines_of_text_cannot_carry_is_refused_by_name(tmp_path: Path, row: dict[str, Any], lost: str) -> None:
    load_row(tmp_path / "before.jsonl", row)
    with pytest.raises(DataError, match=lost):
        convert(tmp_path / "before.jsonl", tmp_path / "after.txt", to="text")
    assert not (tmp_path / "after.txt").exists()


@pytest.mark.parametrize("there", CHATS)
def test_alpacas_instruction_and_input_come_back_as_two(tmp_path: Path, there: str) -> None:
    row = {"instruction": "Sum up.", "input": "One.\n\nTwo.", "output": "1, 2"}
    files = [tmp_path / f"{number}.jsonl" for number in range(3)]
    load_row(files[0], row)
    convert(files[0], files[1], to=there)
    convert(files[1], files[2], to="alpaca")
    assert json.loads(files[2].read_text()) == row


def test_a_lossy_conversion_of_tool_use_leaves_the_question_and_the_answer(tmp_path: Path) -> None:
    load_row(tmp_path / "in.jsonl", {"messages": [ASK, CALLS, {"role": "tool", "content": "7"}, SAY, ASK]})
    convert(tmp_path / "in.jsonl", tmp_path / "out.jsonl", to="alpaca", lossy=True)
    written = json.loads((tmp_path / "out.jsonl").read_text())
    assert (written["history"], written["instruction"], written["output"]) == ([["a", "b"]], "a", "")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_marks_beside_text_labels_are_given_back(tmp_path: Path, ending: str) -> None:
    turns = (Message("user", "a"), Message("assistant", "b"))
    rows = [Conversation(turns, 1, desirable=False), Conversation(turns, 1, label="spam")]
    path = tmp_path / f"rows.{ending}"
    write(path, rows, format="prompt-completion")
    assert [(row.desirable, row.label) for row in load(path)] == [(False, None), (None, "spam")]
