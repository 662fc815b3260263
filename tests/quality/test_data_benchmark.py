"""What the benchmark of the data stage needs is named before anything is measured."""

import importlib.util

import pytest
from benchmarks import data


def test_without_the_peers_the_benchmark_says_in_a_line_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for arguments in ([], ["--measure", "presidio"]):
        monkeypatch.setattr("sys.argv", ["data.py", *arguments])
        with pytest.raises(SystemExit) as stopped:
            data.main()
        assert stopped.value.code == 2
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "benchmarks.data: needs datasketch and presidio_analyzer and spacy: pip install 'tunesmith[bench]'",
        "benchmarks.data: needs presidio_analyzer and spacy: pip install 'tunesmith[bench]'",
    ]


def test_our_own_measurements_need_no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert data.missing(["checklist", "duplicates", "personal", "truths", "short_rows"]) == []
