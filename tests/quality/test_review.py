import json
from pathlib import Path

from tunesmith.assets import sample
from tunesmith.quality import checklist


def test_the_review_file_holds_whole_rows_with_room_for_a_verdict_and_is_always_the_same(tmp_path: Path) -> None:
    for name in ("one", "two"):
        checklist.check([sample("style")], review_file=tmp_path / name)
    text = (tmp_path / "one").read_text()
    assert text == (tmp_path / "two").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == 100
    assert set(rows[0]) == {"where", "input", "output", "verdict", "comment"}
    assert all(row["where"].startswith(str(sample("style"))) and row["output"] for row in rows)
