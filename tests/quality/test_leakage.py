from tunesmith.dataset.conversation import Conversation, Message, Source
from tunesmith.quality.check import Profile, RowTexts, Task
from tunesmith.quality.leakage import leakage, leaked_rows
from tunesmith.quality.rows import RowWriter

QUESTIONS = (
    "My parcel was due on Monday, but the tracking page still says that it waits in the depot.",
    "How can I change the address on an invoice that was already sent to my former company?",
    "The app closes itself whenever I open the camera, although I reinstalled it two times.",
)


def texts(file: str, *questions: str) -> RowTexts:
    writer = RowWriter()
    for line, question in enumerate(questions, 1):
        messages = (Message("user", question), Message("assistant", f"answer {line} of {file}"))
        writer.extend([Conversation(messages=messages, source=Source(file, line, "openai"))])
    return writer.rows()


def test_copies_and_near_copies_of_training_questions_leak_whatever_their_answer() -> None:
    training = texts("train.jsonl", *QUESTIONS)
    evaluation = texts("eval.jsonl", "Something else entirely?", QUESTIONS[1].upper(), QUESTIONS[2] + " Help!")
    assert leaked_rows(training, evaluation) == {1: 1, 2: 2}


def test_a_short_question_with_courtesies_leaks() -> None:
    training = texts("train.jsonl", "Where do I pay?", "Who sends it?")
    assert leaked_rows(training, texts("eval.jsonl", "Hello, please: who sends it? Thanks!")) == {0: 1}


def test_every_copy_of_a_leaked_evaluation_row_leaks() -> None:
    near = QUESTIONS[0] + " Help!"
    assert leaked_rows(texts("train.jsonl", *QUESTIONS), texts("eval.jsonl", near, near)) == {0: 0, 1: 0}


def test_copies_within_one_side_are_not_leakage() -> None:
    training = texts("train.jsonl", QUESTIONS[0], QUESTIONS[0])
    assert leaked_rows(training, texts("eval.jsonl", QUESTIONS[1], QUESTIONS[1])) == {}


def test_plain_text_rows_are_compared_whole() -> None:
    writer = RowWriter()
    writer.extend([Conversation(text=QUESTIONS[0], source=Source("text.jsonl", 1, "text"))])
    rows = writer.rows()
    assert leaked_rows(rows, rows) == {0: 0}


def test_the_finding_names_both_places() -> None:
    training, evaluation = texts("train.jsonl", *QUESTIONS), texts("eval.jsonl", QUESTIONS[2])
    profile = Profile(files=("train.jsonl",), rows=training, broken=(), task=Task("domain", ""), evaluation=evaluation)
    [finding] = leakage(profile)
    assert (finding.status, finding.count, finding.rows[0].where) == ("fail", 1, "eval.jsonl:1")
    assert "train.jsonl:3" in finding.rows[0].note
