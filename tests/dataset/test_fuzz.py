"""No row is ever lost: what is not read is reported, whatever the bytes; and what a format can carry comes back."""

import itertools
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from tests.dataset.test_formats import CHAT, COMPLETION, PLAIN, PREFERENCE, canonical

from tunesmith.dataset.conversation import BrokenRow, Conversation
from tunesmith.dataset.convert import convert
from tunesmith.dataset.formats import FORMATS, cannot_carry
from tunesmith.dataset.read import load, read
from tunesmith.dataset.write import write
from tunesmith.errors import DataError
from tunesmith.quality.checklist import check

# Rows are drawn until one fits a format, which may take long: on a busy machine, and for formats that carry little.
TINY = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much, HealthCheck.too_slow],
    deadline=None,
)
GOOD = b'{"prompt": "a", "completion": "b"}'
LINES = st.lists(
    st.one_of(
        st.just(GOOD),
        st.just(GOOD).map(lambda line: line[:-3]),
        st.sampled_from([b"{", b"[", b"}", b"]", b"[1, 2]", b"[{", b'["a', b"null", b'"x"', b"{},", b"[]", b"{}"]),
        st.sampled_from([b"\xff\xfe", b"\xef\xbb\xbf{}", b"\x00", b"NaN", b"1e999", b'{"prompt": NaN}', b"\\u"]),
        st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"").replace(b"\r", b"")),
    ),
    min_size=1,
    max_size=6,
)


def places(path: Path) -> set[int]:
    return {row.line if isinstance(row, BrokenRow) else row.source.line for row in read(path)}


@settings(TINY, max_examples=400)
@given(lines=LINES)
@example(lines=[b"[broken", GOOD, GOOD])
@example(lines=[b"{", GOOD])
@example(lines=[b"[1]", GOOD])
def test_every_line_is_read_or_reported_when_good_rows_follow(tmp_path: Path, lines: list[bytes]) -> None:
    assume(not lines[0].lstrip().startswith((b"\xff\xfe", b"\xfe\xff")))  # UTF-16 is refused as a whole
    assume(not lines[0].strip().endswith((b",", b"[", b":")))  # the first line of an array that spans lines
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([*lines, GOOD, GOOD]) + b"\n")
    seen = [lines[0].removeprefix(b"\xef\xbb\xbf"), *lines[1:], GOOD, GOOD]
    expected = {number for number, line in enumerate(seen, 1) if line.strip()}
    if (first := next(line.strip() for line in [*lines, GOOD] if line.strip())).startswith(b"[") or first == b"{":
        # One value over several lines may be meant; the rows behind it are never lost.
        assert {len(lines) + 1, len(lines) + 2} <= places(path)
    else:
        assert places(path) == expected


@settings(TINY, max_examples=60)
@given(broken=st.lists(st.sampled_from(['"a,b', 'a"b,c', '"a"b,c', "a", "a,b,c", '"'])), quoted=st.booleans())
def test_a_broken_row_of_a_table_does_not_hide_the_rows_below(tmp_path: Path, broken: list[str], quoted: bool) -> None:
    good = '"a ""x""\ny",b' if quoted else "a,b"
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["prompt,completion", *broken, good, good, "z,z"]) + "\n")
    last = 1 + len(broken) + (4 if quoted else 2) + 1
    assert last in places(path)


@settings(TINY, max_examples=200)
@given(
    content=st.binary(max_size=300), ending=st.sampled_from(["jsonl", "csv", "tsv", "txt", "json"]), mix=st.booleans()
)
def test_any_bytes_around_good_rows_are_no_exception(tmp_path: Path, content: bytes, ending: str, mix: bool) -> None:
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(content + b"\n" + GOOD + b"\n" if mix else GOOD + b"\n" + content)
    assert all(isinstance(row, Conversation | BrokenRow) for row in read(path))


# A preference pair and a plain text fit no other format at all.
PAIRS = list(itertools.permutations([name for name in FORMATS if name not in ("text", "preference")], 2))


@pytest.mark.parametrize(("one", "other"), PAIRS)
@settings(TINY, max_examples=12)
@given(row=st.one_of(CHAT, COMPLETION))
def test_a_conversion_there_and_back_loses_nothing_that_both_formats_carry(
    tmp_path: Path, one: str, other: str, row: Conversation
) -> None:
    if cannot_carry(row, one):
        return
    first, second, third = (tmp_path / f"{name}.jsonl" for name in ("first", "second", "third"))
    write(first, [row], format=one)
    try:
        convert(first, second, to=other)
    except DataError as error:
        assert "cannot carry" in str(error)
        return
    try:
        convert(second, third, to=one)
    except DataError as error:
        assert "cannot carry" in str(error)
        return
    assert [canonical(found) for found in load(third)] == [canonical(row)]


CONTAINERS = ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "csv.zst"]


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("ending", CONTAINERS)
@settings(TINY, max_examples=10)
@given(data=st.data())
def test_every_container_gives_back_every_format(tmp_path: Path, name: str, ending: str, data: st.DataObject) -> None:
    rows = {"text": PLAIN, "preference": PREFERENCE}.get(name, st.one_of(CHAT, COMPLETION))
    wanted = rows.filter(lambda row: not cannot_carry(row, name))
    given_rows = data.draw(st.lists(wanted, min_size=1, max_size=3))
    path = tmp_path / f"rows.{ending}"
    write(path, given_rows, format=name)
    assert [canonical(row) for row in load(path)] == [canonical(row) for row in given_rows]


def test_a_lossy_conversion_names_every_kind_of_loss_once(tmp_path: Path) -> None:
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "a", "name": "Ada"},
            {"role": "assistant", "content": "b", "weight": 0, "reasoning_content": "hm"},
            {"role": "user", "content": "c"},
            {"role": "assistant", "content": "d"},
        ],
        "tools": [{"type": "function", "function": {"name": "t", "parameters": {"type": "object"}}}],
    }
    (tmp_path / "in.jsonl").write_text((json.dumps(row) + "\n") * 3)
    lost = {
        loss.what: loss.rows
        for loss in convert(tmp_path / "in.jsonl", tmp_path / "out.jsonl", to="alpaca", lossy=True).losses
    }
    assert lost == {"tools": 3, "weights": 3, "thinking": 3, "names of speakers": 3}


@pytest.mark.parametrize("depth", [300, 600, 900])
@pytest.mark.parametrize(
    "row",
    [
        '{"prompt": "a", "completion": "b", "m": OPENCLOSE}',
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "OPENCLOSE"}]}',
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": '
        '[{"function": {"name": "f", "arguments": "OPENCLOSE"}}]}]}',
    ],
)
def test_deep_nesting_is_told_or_read_never_a_crash(tmp_path: Path, depth: int, row: str) -> None:
    line = row.replace("OPEN", "[" * depth).replace("CLOSE", "]" * depth)
    other = row.replace("OPEN", "[" * depth).replace("CLOSE", "1" + "]" * depth)
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{line}\n{other}\n")

    report = check([file])

    assert report.rows + report.broken_rows == 2


def test_a_table_in_another_encoding_gives_a_report_that_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes("prompt,completion\na,b\n".encode("utf-16"))

    report = check([file])

    assert report.broken_rows > 0
    assert msgspec.json.encode(report)
