"""Every format reads what it writes, whatever the container; and says what it cannot carry."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.dataset.conversation import BrokenRow, Conversation, Message, ToolCall
from tunesmith.dataset.convert import convert
from tunesmith.dataset.formats import FORMATS, cannot_carry, write_row
from tunesmith.dataset.formats.fields import Problem
from tunesmith.dataset.read import load, read
from tunesmith.dataset.write import write
from tunesmith.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
WORD = st.text("abcdefgh", min_size=1, max_size=6)
TOOL = st.builds(lambda name: {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}, WORD)
CALL = st.builds(lambda name, value: ToolCall(name, json.dumps({"x": value}), f"id{name}"), WORD, st.integers(0, 9))


def weighted(message: Message, weight: int | None) -> Message:
    return Message(message.role, message.content, message.thinking, message.tool_calls, weight=weight)


USER = st.builds(lambda text: Message("user", text), TEXT)
ASSISTANT = st.builds(
    weighted,
    st.builds(
        lambda text, calls: Message("assistant", text, tool_calls=tuple(calls)), TEXT, st.lists(CALL, max_size=1)
    ),
    st.sampled_from([None, None, 0, 1]),
)
SYSTEM = st.lists(st.builds(lambda text: Message("system", text), TEXT), max_size=1)
TURNS = st.lists(st.tuples(USER, ASSISTANT), min_size=1, max_size=3)
METADATA = st.dictionaries(st.sampled_from(["topic", "lang"]), WORD, max_size=2)
CHAT = st.builds(
    lambda system, turns, tools, label, metadata: Conversation(
        messages=(*system, *(message for turn in turns for message in turn)),
        tools=tuple(tools),
        label=label,
        metadata=metadata,
    ),
    SYSTEM,
    TURNS,
    st.lists(TOOL, max_size=2),
    st.none() | WORD,
    METADATA,
)
COMPLETION = st.builds(
    lambda prompt, reply, desirable: Conversation(
        messages=(Message("user", prompt), Message("assistant", reply)), completion_start=1, desirable=desirable
    ),
    TEXT.filter(bool),
    TEXT,
    st.none() | st.booleans(),
)
PREFERENCE = st.builds(
    lambda prompt, chosen, rejected: Conversation(
        messages=(Message("user", prompt), Message("assistant", chosen)),
        completion_start=1,
        rejected=(Message("assistant", rejected),),
    ),
    TEXT,
    TEXT,
    TEXT,
)
PLAIN = st.builds(lambda text: Conversation(text=text), TEXT)


def canonical(row: Conversation) -> Conversation:
    """The row with `completion_start` spelled as weights, as the chat formats carry it, and without its source."""
    messages = row.messages
    if row.completion_start is not None:
        messages = tuple(
            weighted(message, 0) if index < row.completion_start and message.role == "assistant" else message
            for index, message in enumerate(messages)
        )
    return Conversation(messages, None, row.rejected, row.text, row.desirable, row.tools, row.label, row.metadata)


@pytest.mark.parametrize("name", list(FORMATS))
@given(row=st.one_of(CHAT, COMPLETION, PREFERENCE, PLAIN))
def test_a_format_reads_back_every_row_that_it_can_carry(name: str, row: Conversation) -> None:
    row_format = FORMATS[name]
    if (row.text is None) == (name == "text") or (name == "preference" and not row.rejected):
        return
    if cannot_carry(row, name):
        return
    problems: list = []
    again = row_format.read(json.loads(json.dumps(write_row(row, name))), problems)
    assert not problems
    assert canonical(again) == canonical(row)


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "jsonl.zst", "csv.gz"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(rows=st.lists(CHAT, min_size=1, max_size=4))
def test_a_container_gives_back_its_rows(tmp_path: Path, ending: str, rows: list[Conversation]) -> None:
    path = tmp_path / f"rows.{ending}"
    assert write(path, rows, format="openai") == len(rows)
    assert [canonical(row) for row in load(path)] == [canonical(row) for row in rows]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=200),
    ending=st.sampled_from(["jsonl", "json", "csv", "tsv", "txt", "gz", "zst", "parquet"]),
)
def test_any_bytes_give_rows_or_broken_rows_and_no_other_exception(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(content)
    for row in read(path):
        assert isinstance(row, Conversation | BrokenRow)


JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "from"]), inner),
    max_leaves=8,
)
KEYS = ["messages", "conversations", "prompt", "completion", "chosen", "rejected", "instruction", "output", "tools"]
KEYS += ["system", "text", "label", "input", "preferred_output", "non_preferred_output", "history"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(row=st.dictionaries(st.sampled_from(KEYS), JSON_VALUE))
def test_a_row_of_any_shape_is_read_or_reported(tmp_path: Path, row: dict) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    results = list(read(path))
    assert results
    assert len(results) == 1 or all(isinstance(result, BrokenRow) for result in results)


@pytest.mark.parametrize(
    ("line", "column", "path", "found"),
    [
        (
            '{"messages": [{"role": "usr", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            24,
            "$.messages[0].role",
            '"usr"',
        ),
        (
            '{"messages": [{"role": "user", "content": 7}, {"role": "assistant", "content": "b"}]}',
            43,
            "$.messages[0].content",
            "7",
        ),
        ('{"messages": []}', 14, "$.messages", "an empty list"),
        ('{"prompt": "a", "completion": null}', 31, "$.completion", "null"),
        ('{"instruction": "a", "output": {}}', 32, "$.output", "an empty object"),
        ('{"conversations": [{"from": "gpt"}]}', 20, "$.conversations[0]", "nothing"),
        ('{"prompt": "a" "completion": "b"}', 16, "$", "'\"completion\"'"),
        ('{"prompt": "a", ', 17, "$", "a line that breaks off"),
        ("[1, 2", 2, "$", "1"),
        ("3", 1, "$", "3"),
    ],
)
def test_a_broken_row_is_reported_with_its_place(tmp_path: Path, line: str, column: int, path: str, found: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n' * (line[0] != "[") + line + "\n")
    broken = next(row for row in read(file) if isinstance(row, BrokenRow))
    assert (broken.line, broken.column, broken.path) == (2 if line[0] != "[" else 1, column, path)
    assert broken.found.startswith(found[:10])


def test_every_mistake_of_every_row_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    good = '{"prompt": "a", "completion": "b"}'
    bad = '{"messages": [{"role": "x", "content": 1}, {"role": "assistant", "content": "b", "weight": 2}]}'
    file.write_text("\n".join([bad, good, "", "{", good, '{"unknown": 1}']))
    results = list(read(file))
    assert [row.line for row in results if isinstance(row, BrokenRow)] == [1, 1, 1, 4, 6]
    assert sum(isinstance(row, Conversation) for row in results) == 2


def test_reading_goes_on_behind_a_broken_element_of_an_array(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    good = '{"prompt": "a", "completion": "b"}'
    file.write_text(f'[\n  {good},\n  {{"prompt": "a" "completion": "b"}},\n  {good}\n]\n')
    results = list(read(file))
    assert [type(row) for row in results] == [Conversation, BrokenRow, Conversation]
    assert (results[1].line, results[1].column) == (3, 18)
    assert results[2].source.line == 4


def test_a_large_array_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.dataset.containers.json_array.CHUNK_CHARACTERS", 64)
    file = tmp_path / "rows.json"
    rows = [{"prompt": "é" * (number % 50), "completion": str(number)} for number in range(200)]
    file.write_text(json.dumps(rows, indent=1))
    assert [row.messages[-1].content for row in load(file)] == [str(number) for number in range(200)]


def test_a_file_that_breaks_off_keeps_the_rows_before(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl.gz"
    rows = [Conversation(text=f"{number} " + "x" * 50) for number in range(500)]
    write(file, rows, format="text")
    file.write_bytes(file.read_bytes()[:-20])
    results = list(read(file))
    assert isinstance(results[-1], BrokenRow)
    assert "damaged" in results[-1].found


def test_load_names_the_first_broken_row_and_the_mend(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": 1, "completion": "b"}\n{"prompt": 1, "completion": "b"}\n')
    with pytest.raises(DataError, match=r"rows.jsonl:1:12: \$.prompt: found 1; expected `prompt`, a string") as caught:
        load(file)
    assert len(str(caught.value).splitlines()) == 2


def test_formats_may_be_mixed_in_one_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n{"instruction": "a", "input": "c", "output": "b"}\n')
    assert [row.source.format for row in load(file)] == ["prompt-completion", "alpaca"]


@pytest.fixture
def chat_file(tmp_path: Path) -> Callable[..., Path]:
    def make(*messages: Message, **fields: object) -> Path:
        path = tmp_path / "in.jsonl"
        write(path, [Conversation(messages=messages, **fields)], format="openai")
        return path

    return make


def test_a_lossy_conversion_is_refused_and_leaves_nothing(tmp_path: Path, chat_file: Callable[..., Path]) -> None:
    source = chat_file(Message("user", "a"), Message("assistant", "b", weight=0), tools=({"name": "t"},))
    with pytest.raises(DataError, match=r"tools in 1 row .*weights in 1 row"):
        convert(source, tmp_path / "out.jsonl", to="alpaca")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]


def test_a_lossy_conversion_says_what_it_lost(tmp_path: Path, chat_file: Callable[..., Path]) -> None:
    source = chat_file(Message("user", "a"), Message("assistant", "b", weight=0))
    conversion = convert(source, tmp_path / "out.jsonl", to="alpaca", lossy=True)
    assert [loss.what for loss in conversion.losses] == ["weights"]
    assert json.loads((tmp_path / "out.jsonl").read_text())["output"] == "b"


def test_a_conversion_onto_its_own_input_is_refused(chat_file: Callable[..., Path]) -> None:
    source = chat_file(Message("user", "a"), Message("assistant", "b"))
    with pytest.raises(ValueError, match="is the input itself"):
        convert(source, source, to="alpaca")


def test_what_anthropics_blocks_say_beside_their_text_is_kept_or_named() -> None:
    cache = {"cache_control": {"type": "ephemeral"}}
    called = [
        {"type": "thinking", "thinking": "hm", "signature": "EqQB"},
        {"type": "tool_use", "name": "find", "input": {}, "id": "1"},
    ]
    result = {"type": "tool_result", "content": "ok", "tool_use_id": "1", "is_error": False} | cache
    row = {
        "system": [{"type": "text", "text": "Be brief."} | cache],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"} | cache]},
            {"role": "assistant", "content": called},
            {"role": "user", "content": [result]},
            {"role": "assistant", "content": "done"},
        ],
        "tools": [{"name": "find", "description": "d", "input_schema": {"type": "object"}} | cache],
    }

    conversation = FORMATS["anthropic"].read(row, [])

    assert write_row(conversation, "anthropic") == row
    assert "other fields of messages" in cannot_carry(conversation, "alpaca")
    there_and_back = FORMATS["openai"].read(write_row(conversation, "openai"), [])
    assert write_row(there_and_back, "anthropic") == row


@pytest.mark.parametrize("hidden", [["EmwKAhgB"], ["EmwKAhgB", "EncBCkgI"]])
def test_anthropics_encrypted_thoughts_are_kept(hidden: list[str]) -> None:
    blocks = [{"type": "redacted_thinking", "data": data} for data in hidden]
    said = [{"type": "thinking", "thinking": "hm"}, *blocks, {"type": "text", "text": "yes"}]
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": said}]}

    problems: list[Problem] = []
    conversation = FORMATS["anthropic"].read(row, problems)

    assert not problems
    assert conversation.messages[1].content == "yes"
    assert write_row(conversation, "anthropic") == row
    assert "other fields of messages" in cannot_carry(conversation, "alpaca")
    there_and_back = FORMATS["openai"].read(write_row(conversation, "openai"), [])
    assert write_row(there_and_back, "anthropic") == row


@pytest.mark.parametrize("value", [["user"], {"a": 1}, None, 1])
def test_a_role_or_block_type_of_another_kind_is_a_mistake_with_its_place(value: object) -> None:
    problems: list[Problem] = []
    FORMATS["openai"].read(
        {"messages": [{"role": value, "content": "a"}, {"role": "assistant", "content": "b"}]}, problems
    )
    assert [problem.path for problem in problems] == [("messages", 0, "role")]
    assert not FORMATS["anthropic"].matches({"messages": [{"role": "user", "content": [{"type": value}]}]})
