from tunesmith.dataset.conversation import Conversation, Message, Source
from tunesmith.quality.check import Profile, RowTexts, Task
from tunesmith.quality.duplicates import duplicate_rows, duplicates
from tunesmith.quality.rows import RowWriter

LETTER = "My parcel was due on Monday, but the tracking page still says that it waits in the depot of your partner."
ANSWER = "We are sorry. The depot had a strike; your parcel is on its way since this morning."


def texts(*rows: tuple[str, str, str]) -> RowTexts:
    writer = RowWriter()
    for line, (system, question, answer) in enumerate(rows, 1):
        messages = (Message("system", system), Message("user", question), Message("assistant", answer))
        writer.extend([Conversation(messages=messages, source=Source("rows.jsonl", line, "openai"))])
    return writer.rows()


def test_copies_that_differ_in_case_and_spacing_are_exact() -> None:
    found = duplicate_rows(texts(("", LETTER, ANSWER), ("", "Hello?", "Hi!"), ("", LETTER.upper() + "\n", ANSWER)))
    assert (found.exact, found.near) == ({2: 0}, {})


def test_a_row_with_a_few_other_letters_is_near() -> None:
    found = duplicate_rows(texts(("", LETTER, ANSWER), ("", LETTER.replace("Monday", "Tuesday"), ANSWER)))
    assert (found.exact, found.near) == ({}, {1: 0})


def test_the_same_row_under_another_system_prompt_is_no_duplicate() -> None:
    rows = (("Be kind.", LETTER, ANSWER), ("Be brief.", LETTER, ANSWER), ("Be brief.", LETTER, ANSWER))
    found = duplicate_rows(texts(*rows))
    assert (found.exact, found.near) == ({2: 1}, {})


def test_the_same_question_with_another_label_is_no_duplicate() -> None:
    found = duplicate_rows(texts(("", LETTER, "shipping"), ("", LETTER, "billing")))
    assert (found.exact, found.near) == ({}, {})


def test_moving_text_between_input_and_output_makes_another_row() -> None:
    found = duplicate_rows(texts(("", "one two", "three"), ("", "one", "two three")))
    assert found.exact == {}


def test_the_findings_count_the_rows_to_drop_and_name_the_command() -> None:
    rows = texts(("", LETTER, ANSWER), ("", LETTER, ANSWER), ("", LETTER + " Now!", ANSWER))
    exact, near = duplicates(Profile(files=("rows.jsonl",), rows=rows, broken=(), task=Task("domain", "")))
    assert (exact.status, exact.count, exact.rows[0].where) == ("fail", 1, "rows.jsonl:2")
    assert (near.status, near.count) == ("fail", 1)
    assert exact.command == "tunesmith data clean rows.jsonl rows.clean.jsonl --drop-duplicates"


def test_preference_rows_with_another_rejected_reply_are_no_duplicates() -> None:
    writer = RowWriter()
    for rejected in ("Wait.", "Wait.", "Go away."):
        writer.extend(
            [
                Conversation(
                    messages=(Message("user", LETTER), Message("assistant", ANSWER)),
                    completion_start=1,
                    rejected=(Message("assistant", rejected),),
                )
            ]
        )
    found = duplicate_rows(writer.rows())
    assert (found.exact, found.near) == ({1: 0}, {})
