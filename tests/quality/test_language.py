import json
from pathlib import Path

import pytest

import tunesmith
from tunesmith.quality.language import at_sight, language

DUTCH = "Kun je me helpen met het schrijven van een sollicitatiebrief voor een baan als kok?"
ENGLISH = "Tell me how to write a letter to the people who rent a house from you, and what to leave out."


@pytest.mark.parametrize(
    "text",
    [
        "Het is een mooie dag en de kat was op het dak of in het huis, dat is wat ik zag.",  # "is", "was", "of"
        "Hij keek naar The Lord of the Rings en het was een goede film, of niet soms?",
        "Det er her for dig, og du kan have det som du vil, for det er godt.",  # "for", "her", "have"
    ],
)
def test_words_that_english_shares_do_not_make_a_text_english(text: str) -> None:
    assert at_sight(text) is None
    assert language(text) != "en"


def test_english_is_told_without_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.quality.language._identifier", lambda: pytest.fail("loads the model"))

    assert language(ENGLISH) == "en"
    assert language("A list: alpha, beta, gamma, delta, epsilon and zeta. " * 5 + ENGLISH) == "en"
    assert language("too short for anyone") is None


@pytest.mark.parametrize("odd", [1, 30])  # few are judged at the end, many where they are read
def test_answers_in_another_language_are_found_in_order(tmp_path: Path, odd: int) -> None:
    file = tmp_path / "rows.jsonl"
    places = [7 * number + 5 for number in range(odd)]
    rows = [(DUTCH, f"{ENGLISH} {n}") if n in places else (f"{ENGLISH} {n}", f"{ENGLISH} It ends.") for n in range(240)]
    file.write_text("".join(json.dumps({"prompt": asked, "completion": said}) + "\n" for asked, said in rows))

    [finding] = [found for found in tunesmith.check([file]).findings if found.check == "outputs: language"]

    assert [row.where for row in finding.rows] == [f"{file}:{place + 1}" for place in places]
    assert finding.rows[0].note.startswith("asked in nl, answered in en: Tell me how")
