"""Entries of the cache are named by what they were made of."""

import os
from pathlib import Path

import pytest

from tunesmith import api, cache
from tunesmith.spec import RunSpec, parse_spec

ROW = '{"messages": [{"role": "user", "content": "What is %d?"}, {"role": "assistant", "content": "A number."}]}\n'


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(ROW % number for number in range(12)))
    return parse_spec({"model": "embedded", "data": {"train": str(rows)}, "output": str(tmp_path / "run")})


def test_data_seen_before_is_neither_checked_nor_planned_again(spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    first = api._known_before(spec)
    made: list[str] = []
    monkeypatch.setattr(api, "check", lambda files: made.append("check"))
    monkeypatch.setattr(api, "plan", lambda data, model: made.append("plan"))
    assert api._known_before(spec) == first
    assert made == []
    with Path(spec.data.train).open("a") as file:
        file.write(ROW % 99)
    api._known_before(spec)
    assert made == ["check", "plan"]


def test_what_cannot_be_written_is_made_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "file"))
    assert [cache.remembered("things", "key", lambda: b"made") for _ in range(2)] == [b"made", b"made"]
    assert "things is not cached" in caplog.text


def test_what_was_asked_for_longest_ago_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "MOST_BYTES", 250)
    for age, name in ((30, "old"), (20, "older, but asked for again")):
        cache.remembered("things", name, lambda: bytes(100))
        os.utime(cache.entry("things", name), (0, -age))
    (tmp_path / "elsewhere").write_bytes(bytes(1000))  # what is not ours is neither counted nor removed
    cache.entry("things", "older, but asked for again")
    cache.remembered("things", "new", lambda: bytes(100))
    assert {path.name for path in (tmp_path / "things").iterdir()} == {"older, but asked for again", "new"}
    assert (tmp_path / "elsewhere").exists()


def test_a_name_tells_parts_and_code_apart(tmp_path: Path) -> None:
    assert cache.digest("ab", "c") != cache.digest("a", "bc")
    assert cache.digest("a") == cache.digest(b"a")
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"same")
    other.write_bytes(b"same")
    assert cache.file_digest(one) == cache.file_digest(other)
    assert cache.code_digest(("tunesmith.dataset",), ()) != cache.code_digest(("tunesmith.quality",), ())
    assert cache.code_digest(("tunesmith.cache",), ("numpy",)) != cache.code_digest(("tunesmith.cache",), ())
