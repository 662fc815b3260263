"""Good files with bytes changed, through every verb: rows in are rows out and rows named."""

import gzip
import json
from pathlib import Path

import zstandard
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.cli.main import cli
from tunesmith.dataset.conversation import BrokenRow, Conversation
from tunesmith.dataset.read import read
from tunesmith.errors import TunesmithError

ROWS = (
    [{"messages": [{"role": "user", "content": "é 中 a@b.com"}, {"role": "assistant", "content": "b", "weight": 1}]}]
    * 3,
    [{"prompt": f"question {number}", "completion": "yes", "label": True} for number in range(5)],
    [{"instruction": "a", "input": "", "output": f"{number}", "history": [["c", "d"]]} for number in range(4)],
    [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}] * 2,
    [{"text": f"line {number}"} for number in range(6)],
)
JSONL = st.sampled_from(ROWS).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
ARRAY = st.sampled_from(ROWS).map(lambda rows: json.dumps(rows, ensure_ascii=False).encode())
TABLE = st.sampled_from([b'prompt,completion\na,b\n"c ""d""","e\nf"\n', b"text,label\r\na,x\r\nb,y\r\n"])
SNIPPETS = [
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"NaN",
    b"1e999",
    b"9" * 400,
    b"[" * 900,
]
SNIPPETS += [b"\r\n", b"\r", b"\n\n", b'"', b",", b"{", b"}", b"]", b"null", b"\\", b'"role": "x", "role": 1', b"\x1a"]
EDIT = st.tuples(st.integers(0, 400), st.integers(0, 6), st.sampled_from(SNIPPETS) | st.binary(max_size=4))
PACKINGS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def changed(content: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for position, removed, put in edits:
        content = content[:position] + put + content[position + removed :]
    return content


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["data", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit | TunesmithError):
        raise result.exception
    return (2 if isinstance(result.exception, TunesmithError) else result.exit_code), result.stdout


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40, derandomize=True)
@given(
    file=st.one_of(
        st.tuples(st.just("jsonl"), JSONL), st.tuples(st.just("json"), ARRAY), st.tuples(st.just("csv"), TABLE)
    ),
    packing=st.sampled_from(sorted(PACKINGS)),
    inner=st.lists(EDIT, max_size=3),
    outer=st.just([]) | st.lists(EDIT, max_size=1),
    to=st.sampled_from(["openai", "anthropic", "alpaca", "sharegpt", "prompt-completion", "text"]),
)
def test_every_verb_accounts_for_every_row(
    tmp_path: Path,
    file: tuple[str, bytes],
    packing: str,
    inner: list[tuple[int, int, bytes]],
    outer: list[tuple[int, int, bytes]],
    to: str,
) -> None:
    source = tmp_path / f"rows.{file[0]}{packing}"
    source.write_bytes(changed(PACKINGS[packing](changed(file[1], inner)), outer))
    found = list(read(source))
    good = sum(isinstance(row, Conversation) for row in found)
    broken = len({row.number for row in found if isinstance(row, BrokenRow)})

    code, output = run("check", str(source), "--json", "-")
    report = json.loads(output)
    assert (code in (0, 1), report["rows"], report["broken_rows"]) == (True, good, broken)

    target = tmp_path / f"clean.{file[0]}{packing}"
    code, output = run("clean", str(source), str(target), "--drop-broken", "--drop-duplicates", "--json")
    if code == 0:
        result = json.loads(output)
        assert result["rows_read"] == good + broken == result["rows_written"] + sum(result["actions"].values())
        assert sum(isinstance(row, Conversation) for row in read(target)) == result["rows_written"]

    code, output = run("convert", str(source), str(tmp_path / "converted.jsonl"), "--to", to, "--lossy", "--json")
    if code == 0:
        assert [type(row) for row in read(tmp_path / "converted.jsonl")] == [Conversation] * good

    code, output = run("split", str(source), "--out", str(tmp_path / "parts"), "--holdout", "0.4", "--json")
    if code == 0:
        parts = json.loads(output)
        assert sum(1 for part in ("train", "holdout") for _ in read(parts[part])) == good

    assert run("show", str(source), "--row", "2")[0] in (0, 2)
