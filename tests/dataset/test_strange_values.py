"""Values that one library makes and another refuses: found by fuzzing, each a mistake with its place or carried."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunesmith.dataset.conversation import BrokenRow, Conversation
from tunesmith.dataset.convert import convert
from tunesmith.dataset.read import load, read

TURNS = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


@pytest.mark.parametrize("tools", ['[{"name": "\\ud800"}]', '[{"name": NaN}]'])
def test_tools_as_text_are_held_to_strict_json(tmp_path: Path, tools: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"conversations": TURNS, "tools": tools}) + "\n")
    [row] = read(path)
    assert isinstance(row, BrokenRow)
    assert row.path == "$.tools"


@pytest.mark.parametrize("empty", [{}, {"a": {}}, [{}]])
def test_an_empty_object_in_a_column_is_written_to_parquet(tmp_path: Path, empty: object) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "b", "notes": empty}) + "\n")
    convert(path, tmp_path / "rows.parquet", to="openai")
    [row] = load(tmp_path / "rows.parquet")
    assert row.messages == load(path)[0].messages
    assert json.loads(row.metadata["notes"]) == empty


def test_a_parquet_file_whose_column_name_is_no_text_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["a"], "completion_": ["b"]}), path)
    path.write_bytes(path.read_bytes().replace(b"completion_", b"completion\x81"))
    assert all(isinstance(row, BrokenRow | Conversation) for row in read(path))


def test_arguments_that_hold_bytes_in_parquet_are_text(tmp_path: Path) -> None:
    calls = [{"function": {"name": "f", "arguments": {"data": b"abc"}}}]
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    pq.write_table(
        pa.Table.from_pylist([{"messages": messages, "tools": [{"name": "f", "icon": b"abc"}]}]),
        tmp_path / "rows.parquet",
    )
    [read_back] = load(tmp_path / "rows.parquet")
    convert(tmp_path / "rows.parquet", tmp_path / "rows.jsonl", to="sharegpt", lossy=True)
    assert "abc" in json.loads(read_back.messages[1].tool_calls[0].arguments)["data"]
