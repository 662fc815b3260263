import json
from pathlib import Path

import pytest

from tunesmith.assets import sample
from tunesmith.errors import MissingDependencyError
from tunesmith.quality import checklist
from tunesmith.quality.pii import names


def test_the_review_file_holds_whole_rows_with_room_for_a_verdict_and_is_always_the_same(tmp_path: Path) -> None:
    for name in ("one", "two"):
        checklist.check([sample("style")], review_file=tmp_path / name)
    text = (tmp_path / "one").read_text()
    assert text == (tmp_path / "two").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == 100
    assert set(rows[0]) == {"where", "input", "output", "verdict", "comment"}
    assert all(row["where"].startswith(str(sample("style"))) and row["output"] for row in rows)


def test_asking_for_names_without_a_recognizer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "installed_name_finder", lambda: None)
    checklist.PersonalData.__init__.__globals__["_finder"].cache_clear()
    with pytest.raises(MissingDependencyError, match=r"tunesmith\[pii\]"):
        checklist.check([sample("tickets")], names=True)
