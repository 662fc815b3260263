import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.errors import DataError, SpecError
from tunesmith.quality.clean import CleanResult, clean

EVERYTHING = {
    "drop_duplicates": True,
    "drop_near_duplicates": True,
    "drop_contradictions": True,
    "drop_broken": True,
    "drop_empty": True,
    "drop_refusals": True,
    "fix_mojibake": True,
    "redact_pii": True,
}


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def cleaned(folder: Path, rows: list[Any], **mends: bool) -> tuple[list[Any], list[Any], CleanResult]:
    """The rows and the log that `clean` writes, and its result."""
    source, target = write_rows(folder / "in.jsonl", rows), folder / "out.jsonl"
    result = clean(source, target, **mends)
    written, log = ([json.loads(line) for line in Path(path).read_text().splitlines()] for path in (target, result.log))
    return written, log, result


def test_duplicates_are_dropped_but_the_first(tmp_path: Path) -> None:
    rows = [chat("Where is it?", "There."), chat("Who is it?", "Bob."), chat("where  is it?", "There.")]
    written, log, result = cleaned(tmp_path, rows, drop_duplicates=True)
    assert written == rows[:2]
    assert [(entry["where"].endswith("in.jsonl:3"), entry["action"]) for entry in log] == [(True, "dropped")]
    assert (result.rows_read, result.rows_written, result.actions) == (3, 2, {"duplicates dropped": 1})


def test_contradicting_rows_are_all_dropped(tmp_path: Path) -> None:
    rows = [chat("Where is it?", "here"), chat("Who is it?", "Bob"), chat("Where is it?", "there")]
    written, _, result = cleaned(tmp_path, rows, drop_contradictions=True)
    assert written == [rows[1]]
    assert result.actions == {"contradictions dropped": 2}


def test_broken_rows_are_refused_unless_they_are_dropped(tmp_path: Path) -> None:
    rows = [chat("Where is it?", "here"), '{"messages": [']
    with pytest.raises(DataError, match=r"in\.jsonl:2.*\n.*--drop-broken"):
        cleaned(tmp_path, rows, drop_duplicates=True)
    assert not (tmp_path / "out.jsonl").exists()
    written, log, _ = cleaned(tmp_path, rows, drop_broken=True)
    assert written == rows[:1]
    assert log[0]["where"].endswith("in.jsonl:2")


def test_empty_outputs_and_refusals_are_dropped(tmp_path: Path) -> None:
    rows = [chat("a?", " "), chat("b?", "As an AI language model, I cannot have opinions."), chat("c?", "Yes.")]
    written, _, result = cleaned(tmp_path, rows, drop_empty=True, drop_refusals=True)
    assert written == rows[2:]
    assert result.actions == {"empty rows dropped": 1, "refusals dropped": 1}


def test_mojibake_is_fixed_with_before_and_after_in_the_log(tmp_path: Path) -> None:
    written, log, _ = cleaned(tmp_path, [chat("Où?", "Au cafÃ© de la gare, chÃ¨re amie.")], fix_mojibake=True)
    assert written == [chat("Où?", "Au café de la gare, chère amie.")]
    assert (log[0]["before"], log[0]["after"]) == (
        "Au cafÃ© de la gare, chÃ¨re amie.",
        "Au café de la gare, chère amie.",
    )


def test_personal_data_is_in_neither_the_rows_nor_the_log(tmp_path: Path) -> None:
    rows = [
        chat("I am bob@example.com", "Hello bob@example.com, card 4111 1111 1111 1111"),
        '{"messages": "bob@example.com"}',
        chat("CafÃ© bob@example.com", "Ã  midi"),
    ]
    written, _, result = cleaned(tmp_path, rows, redact_pii=True, drop_broken=True, fix_mojibake=True)
    assert written[0] == chat("I am <EMAIL_1>", "Hello <EMAIL_1>, card <CREDIT_CARD_1>")
    log = Path(result.log).read_text()
    assert "bob@" not in log
    assert "4111" not in log
    assert "2 EMAIL" in log


def test_columns_that_no_format_claims_survive(tmp_path: Path) -> None:
    rows = [chat("Where?", "Here.") | {"id": 7, "topic": {"name": "places"}}]
    assert cleaned(tmp_path, rows, redact_pii=True)[0] == rows


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", [chat("a", "b")])
    (tmp_path / "link.jsonl").symlink_to(source)
    for target in (source, tmp_path / "link.jsonl"):
        with pytest.raises(SpecError, match="never overwritten"):
            clean(source, target, drop_duplicates=True)


def test_asking_for_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="nothing to mend"):
        clean(write_rows(tmp_path / "in.jsonl", [chat("a", "b")]), tmp_path / "out.jsonl")


def test_rows_of_several_formats_are_refused_with_the_mend(tmp_path: Path) -> None:
    rows = [chat("a", "b"), {"instruction": "a", "output": "b"}]
    with pytest.raises(DataError, match="tunesmith data convert"):
        cleaned(tmp_path, rows, drop_duplicates=True)


TEXTS = st.lists(
    st.sampled_from(
        [
            "Where is my parcel",
            " 4111 1111 1111 1111",
            " bob@example.com",
            " CafÃ©",
            " please",
            "!",
            " As an AI model",
            " 42",
            " call me 415 555 2671",
            " that I ordered from you last Monday morning",
        ]
    ),
    max_size=4,
).map("".join)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.builds(chat, TEXTS.filter(str.strip), TEXTS), min_size=1, max_size=8))
def test_cleaning_a_clean_file_changes_nothing(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, _, result = cleaned(folder, rows, **EVERYTHING)
        if not first:
            return
        again = clean(result.target, folder / "again.jsonl", **EVERYTHING)
        assert again.actions == {}
        assert (folder / "again.jsonl").read_bytes() == Path(result.target).read_bytes()
