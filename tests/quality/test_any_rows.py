"""The checklist and the mends take whatever rows there are: strange texts and shapes are findings, never exceptions."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.dataset.test_formats import CHAT, COMPLETION, PLAIN, PREFERENCE

import tunesmith
from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.write import write
from tunesmith.errors import DataError
from tunesmith.quality.clean import clean

STRANGE = st.text(
    st.sampled_from('\x00\u200b\ufeff\ufffd\U0001f600İß中é"\\<>&@+-:./|#0123456789abcXYZ \n\t{}[]`$€'), max_size=60
)
ODD = st.builds(
    lambda asked, said: Conversation((Message("user", asked), Message("assistant", said))), STRANGE, STRANGE
)
FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)


@FILES
@given(rows=st.lists(st.one_of(ODD, CHAT, COMPLETION, PREFERENCE, PLAIN), max_size=25), junk=st.binary(max_size=40))
def test_any_rows_give_a_report_that_counts_every_line(tmp_path: Path, rows: list[Conversation], junk: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    formats = {True: "text", False: None}
    whole = b""
    for row in rows:
        name = formats[row.text is not None] or ("preference" if row.rejected else "openai")
        write(tmp_path / "one.jsonl", [row], format=name)
        whole += (tmp_path / "one.jsonl").read_bytes()
    path.write_bytes(whole + junk.replace(b"\n", b"") + b"\n")
    report = tunesmith.check([path], eval_file=path)
    lines = sum(bool(line.strip()) for line in path.read_bytes().split(b"\n"))
    assert rows == [] or report.rows + report.broken_rows == lines


@FILES
@given(rows=st.lists(ODD, min_size=1, max_size=15))
def test_cleaning_any_rows_twice_changes_nothing_the_second_time(tmp_path: Path, rows: list[Conversation]) -> None:
    first, second, third = (tmp_path / name for name in ("first.jsonl", "second.jsonl", "third.jsonl"))
    write(first, rows, format="openai")
    mends = dict.fromkeys(
        ("drop_empty", "drop_duplicates", "drop_near_duplicates", "drop_contradictions", "fix_mojibake", "redact_pii"),
        True,
    )
    clean(first, second, **mends)
    try:
        clean(second, third, **mends)
    except DataError as error:
        assert "no readable row" in str(error)  # nothing was left by the first
        return
    assert second.read_bytes() == third.read_bytes()
