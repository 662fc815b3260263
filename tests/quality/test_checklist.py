"""The whole checklist on the sample with planted faults, through the public function; and the pitfalls it names."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tunesmith
from tunesmith.assets import sample
from tunesmith.dataset.conversation import Conversation, Message, ToolCall
from tunesmith.dataset.write import write
from tunesmith.errors import DataError
from tunesmith.quality.report import CheckReport, Finding

Truth = dict[str, list[list[int]]]

PLANTED = {
    "refusal": "outputs: refusals",
    "mojibake": "outputs: mojibake",
    "markup": "outputs: markup",
    "echo": "outputs: echo",
    "pii_email": "personal data",
    "pii_phone": "personal data",
    "pii_credit_card": "personal data",
    "pii_iban": "personal data",
    "pii_us_ssn": "personal data",
    "pii_api_key": "personal data",
}


@pytest.fixture(scope="module")
def report() -> CheckReport:
    return tunesmith.check([sample("dirty")], eval_file=sample("tickets"))


@pytest.fixture(scope="module")
def truth() -> Truth:
    return json.loads(sample("dirty").with_suffix(".truth.json").read_text())


def lines(finding: Finding) -> set[int]:
    return {int(row.where.removeprefix(f"{sample('dirty')}:").split(":")[0]) for row in finding.rows}


def one(report: CheckReport, check: str, word: str = "") -> Finding:
    [finding] = [found for found in report.findings if found.check == check and word in found.finding]
    return finding


@pytest.mark.parametrize(("planted", "check"), PLANTED.items())
def test_every_planted_fault_of_an_output_is_found(report: CheckReport, truth: Truth, planted: str, check: str) -> None:
    assert {line for [line] in truth[planted]} <= lines(one(report, check))


@pytest.mark.parametrize("check", sorted(set(PLANTED.values())))
def test_nothing_else_is_flagged(report: CheckReport, truth: Truth, check: str) -> None:
    planted = {line for kind, found_by in PLANTED.items() if found_by == check for [line] in truth[kind]}
    assert lines(one(report, check)) == planted


def test_every_broken_and_every_empty_row_is_found(report: CheckReport, truth: Truth) -> None:
    assert report.broken_rows == len(truth["broken_line"])
    assert lines(one(report, "format: broken", "cannot be read")) == {line for [line] in truth["broken_line"]}
    assert lines(one(report, "format: empty", "empty output")) == {line for [line] in truth["empty_output"]}


@pytest.mark.parametrize(
    ("planted", "check"), [("exact_duplicate", "duplicates"), ("near_duplicate", "near-duplicates")]
)
def test_the_later_row_of_every_planted_pair_is_found(
    report: CheckReport, truth: Truth, planted: str, check: str
) -> None:
    assert lines(one(report, check)) == {later for _, later in truth[planted]}


def test_every_contradiction_is_listed_with_both_rows(report: CheckReport, truth: Truth) -> None:
    finding = one(report, "contradictions")
    assert lines(finding) == {earlier for earlier, _ in truth["contradiction"]}
    for earlier, later in truth["contradiction"]:
        [note] = [row.note for row in finding.rows if row.where.endswith(f"dirty.jsonl:{earlier}")]
        assert f"dirty.jsonl:{later} " in note


def test_every_leaked_row_is_named_with_the_training_row_it_copies(report: CheckReport, truth: Truth) -> None:
    notes = " ".join(row.note for row in one(report, "leakage").rows)
    assert all(f"dirty.jsonl:{line}:" in notes for [line] in truth["leaked_from_tickets"])


def chat(question: str, answer: str, **fields: object) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)), **fields)  # type: ignore[arg-type]


def few(number: int) -> Conversation | None:
    return chat(f"Question {number}?", f"The answer is that number {number} is fine.") if number < 40 else None


def generated(number: int) -> Conversation:
    return chat(f"Question {number}?", f"Answer {number} in words of its own.", metadata={"generator": "gpt-4o"})


def changing(number: int) -> Conversation:
    return chat(f"What does plan {number} cost?", f"As of 2024 plan {number} costs ${number + 10}.99 a month.")


@pytest.mark.parametrize(
    ("row", "check", "mend"),
    [
        (few, "size", "few-shot"),
        (generated, "provenance: generated", "people wrote or validated"),
        (changing, "provenance: knowledge", "retrieval"),
    ],
)
def test_a_pitfall_is_named_with_its_mend(
    tmp_path: Path, row: Callable[[int], Conversation | None], check: str, mend: str
) -> None:
    write(tmp_path / "rows.jsonl", [made for number in range(60) if (made := row(number)) is not None])
    finding = one(tunesmith.check([tmp_path / "rows.jsonl"]), check)
    assert finding.status != "pass"
    assert mend in str(finding.mend)


@pytest.mark.parametrize("content", ["", "hello\n", "{}\n[1]\n"])
def test_a_file_without_a_readable_row_passes_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    report = tunesmith.check([tmp_path / "rows.jsonl"])
    assert report.status == "fail"
    assert all(finding.status == "fail" for finding in report.findings)


def test_a_missing_evaluation_file_is_told_before_the_training_files_are_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"eval\.jsonl"):
        tunesmith.check([tmp_path / "missing.jsonl"], eval_file=tmp_path / "eval.jsonl")


def test_rows_of_several_formats_are_a_finding_with_the_command_that_makes_them_one(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [chat(f"Question {n}?", f"Answer {n}.") for n in range(30)], format="openai")
    write(tmp_path / "b.jsonl", [chat(f"Other {n}?", f"Reply {n}.") for n in range(30)], format="alpaca")
    finding = one(tunesmith.check([tmp_path / "a.jsonl", tmp_path / "b.jsonl"]), "format: mixed", "2 formats")
    assert "data convert" in str(finding.command)


def test_judging_side_by_side_gives_the_same_report(monkeypatch: pytest.MonkeyPatch, report: CheckReport) -> None:
    monkeypatch.setattr("tunesmith.quality.checklist.APART_FROM_ROWS", 100)
    monkeypatch.setattr("tunesmith.dataset.containers.json_lines.ROWS_TOGETHER", 50)
    beside = tunesmith.check([sample("dirty")], eval_file=sample("tickets"))
    assert beside.findings == report.findings


def test_conversations_that_call_tools_and_end_in_text_teach_extraction(tmp_path: Path) -> None:
    def row(city: str) -> Conversation:
        call = ToolCall("weather", f'{{"city": "{city}"}}', "1")
        result = Message("tool", f"It is sunny in {city} today and it will stay so until tomorrow.", tool_call_id="1")
        said = Message("assistant", f"It is sunny in {city} today and will stay so until tomorrow.")
        return Conversation(
            (Message("user", f"Weather in {city}?"), Message("assistant", "", None, (call,)), result, said)
        )

    write(tmp_path / "tools.jsonl", [row(f"City{number}") for number in range(20)])
    assert tunesmith.check([tmp_path / "tools.jsonl"]).task == "extraction"


def test_no_quotation_in_the_report_shows_personal_data(tmp_path: Path) -> None:
    asked = "Please write to anna.schmidt@example.com about the parcel that never came"
    rows = [chat(f"{asked} in week {number}", f"I wrote to {number}@example.org and then cut") for number in range(60)]
    write(tmp_path / "rows.jsonl", rows)
    report = tunesmith.check([tmp_path / "rows.jsonl"])
    assert one(report, "personal data").count == 60
    assert "@example" not in repr(report)


def test_the_note_on_mojibake_shows_it(tmp_path: Path) -> None:
    write(
        tmp_path / "rows.jsonl",
        [chat("Hello?", "A long and plain beginning of an answer. " * 9 + "Gr\u00c3\u00bc\u00c3\u0178e!")],
    )
    [note] = one(tunesmith.check([tmp_path / "rows.jsonl"]), "outputs: mojibake").rows
    assert "Gr\u00c3\u00bc" in note.note
