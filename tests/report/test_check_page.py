import re
from pathlib import Path

import msgspec

from tunesmith.quality.report import CheckReport, Finding, RowNote
from tunesmith.report.check_page import write_check_page


def page(report: CheckReport, folder: Path) -> str:
    path = folder / "check.html"
    write_check_page(report, path)
    return path.read_text(encoding="utf-8")


def test_every_check_is_shown_with_its_rows_mend_and_command(check_report: CheckReport, tmp_path: Path) -> None:
    text = page(check_report, tmp_path)
    assert text.count('<section class="finding') == len(check_report.findings)
    for expected in ("tickets.jsonl:17:42", "drop or repair them", "--drop-broken", "collect more of the rare classes"):
        assert expected in text


def test_classes_are_bars_lengths_a_histogram_and_themes_examples(check_report: CheckReport, tmp_path: Path) -> None:
    text = page(check_report, tmp_path)
    assert "<title>billing: 132 </title>" in text
    assert 'aria-label="Histogram of lengths"' in text
    assert "<li>Where is my parcel?</li>" in text
    counted = re.findall(r"<title>[\d.]+ to [\d.]+: (\d+)</title>", text)
    assert sum(map(int, counted)) == 2 * 450  # drawn once for wide and once for narrow screens


def test_many_classes_are_summed_into_the_last_bar(tmp_path: Path) -> None:
    classes = {f"class {index}": index for index in range(1, 41)}
    text = page(report_of(Finding("balance", "pass", "", facts={"classes": classes})), tmp_path)
    assert f"<title>29 others: {sum(range(1, 30))} </title>" in text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    hostile = "</title><script>alert(1)</script>"
    facts = {hostile: {hostile: 1, "b": 2}, "pairs": [[hostile]], "note": hostile}
    finding = Finding(hostile, "fail", hostile, 1, (RowNote(hostile, hostile),), hostile, hostile, facts)
    text = page(msgspec.structs.replace(report_of(finding), files=(hostile,)), tmp_path)
    assert "<script" not in text
    assert "alert(1)" in text


def test_facts_of_any_form_make_a_page(tmp_path: Path) -> None:
    facts = {
        "nothing": None,
        "flag": True,
        "empty": [],
        "same": [3.0] * 20,
        "tiny": [1e-9 * n for n in range(20)],
        "zero": {"a": 0, "b": 0},
        "nested": {"a": {"b": 1}},
        "pairs": [{"first": "a", "second": ["b", 2.5]}],
    }
    assert "2.5" in page(report_of(Finding("odd", "pass", "", facts=facts)), tmp_path)


def report_of(finding: Finding) -> CheckReport:
    return CheckReport(("a.jsonl",), 10, 0, "style", "long outputs", finding.status, (finding,), 0.1)
