"""Profane words, when asked for: whole words of the lists, in English and in the output's own language."""

import sys
from pathlib import Path

import pytest

from tunesmith.errors import MissingDependencyError
from tunesmith.quality.checklist import check
from tunesmith.quality.profanity import profane_words

pytest.importorskip("glin_profanity")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What the FUCK is this?", {"fuck"}),
        ("shit", {"shit"}),
        ("Das ist wirklich ein großes Arschloch, und niemand mag ihn, weil er immer so laut ist.", {"arschloch"}),
        ("In Scunthorpe they assess classes and drink cocktails.", set()),
        ("Das Arsenal liegt in der Stadt, und die Leute gehen gern dorthin, weil es schön ist.", set()),
        ("\ud800 lone", set()),
        ("", set()),
    ],
)
def test_words_count_only_as_a_whole(text: str, words: set[str]) -> None:
    assert profane_words(text).keys() == words


def test_the_report_shows_the_words_and_the_rows_only_when_asked(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"prompt": "Why?", "completion": "Who gives a shit, really."}\n{"prompt": "a", "completion": "b"}\n'
    )

    assert not [finding for finding in check([file]).findings if finding.check == "outputs: profanity"]
    found = next(finding for finding in check([file], profanity=True).findings if finding.check == "outputs: profanity")
    assert (found.status, found.count) == ("warn", 1)
    assert "shit 1" in found.finding
    assert found.rows[0].note == "Who gives a shit, really."


def test_a_missing_list_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.quality import profanity

    profanity._automaton.cache_clear()
    monkeypatch.setitem(sys.modules, "glin_profanity.data.dictionary", None)
    with pytest.raises(MissingDependencyError, match=r"tunesmith\[profanity\]"):
        profanity.Profanity()
