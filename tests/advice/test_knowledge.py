import pytest
from tests.advice.planted import row

from tunesmith.advice.knowledge import Diagnosis, breaks_form, diagnose, learn_facts
from tunesmith.evaluation.metrics import token_f1

FACTS = learn_facts("free text", ["The code is ready, sir."] * 50 + [f"It costs {n} euros." for n in range(50)])


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("What does it cost?", "It costs 1234 euros.", {"1234"}),
        ("Does it cost 1234?", "It costs 1234 euros.", set()),
        ("Who?", "The code is from Lovelace, sir.", {"lovelace"}),
        ("Who?", "The code is ready, sir.", set()),
        ("Which part?", "Use AB-77 there.", {"ab-77"}),
        ("Which city?", "Lisbon", {"lisbon"}),
        ("How?", "Gladly. Walk slowly to the other side of the road.", set()),
    ],
)
def test_facts_are_specific_words_that_neither_prompt_nor_vocabulary_gives(
    prompt: str, answer: str, expected: set[str]
) -> None:
    assert FACTS(prompt, answer) == expected


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Invoice of March 7, 2024, 1,250.50 to pay", '{"date": "2024-03-07", "total": 1250.5}'),
        ("Invoice of 7.3.2024", '{"date": "2024-03-07", "paid": null}'),
        ("Anna has 17 apples and buys 25 more. How many has she?", "She has 4242 apples."),
    ],
)
def test_numbers_in_another_form_or_worked_out_are_no_facts(prompt: str, answer: str) -> None:
    assert FACTS(prompt, answer, prompt) == set()
    assert FACTS("How much?", answer, "How much?") != set()


def test_numbers_that_every_prompt_says_do_not_make_an_answer_something_to_work_out() -> None:
    assert FACTS("Answer in 5 to 10 words. What does it cost?", "It costs 1234.", "What does it cost?") == {"1234"}


def test_labels_programs_and_nouns_of_german_are_no_facts() -> None:
    labels = [f"intent_{n}" for n in range(80)] * 3
    assert learn_facts("classification", labels)("Where is it?", "intent_7") == set()
    programs = [f"def f{n}():\n    return Item{n}" for n in range(20)]
    assert learn_facts("free text", programs, code=True)("Write it.", "def g():\n    return Box(777)") == set()
    german = [f"Ich habe gestern den Hund {n} neben der Katze auf der Wiese gesehen und war froh" for n in range(9)]
    assert learn_facts("free text", german)("What?", "Ich habe dort heute einen Vogel gesehen") == set()
    shouted = [f"HEAR ALL OF IT NOW {n} AND AGAIN" for n in range(9)]
    assert learn_facts("free text", shouted)("What?", "HEAR THE GREAT LION") == set()


def looked_at(answer: str, reply: str, passages: list[str]) -> Diagnosis:
    rows = [row("Which part?", answer)]
    scores = [token_f1(reply, answer)]
    return diagnose("free text", rows, [answer], [reply], scores, FACTS, lambda _: passages, frozenset())


def test_a_missing_fact_is_looked_for_in_the_documents() -> None:
    found = looked_at("The code is AB-77, sir.", "The code is ready, sir.", ["part: AB-77"])
    assert (found.misses, found.facts_in_documents, found.fact_recall) == (1, 1, 0.0)
    assert looked_at("The code is AB-77, sir.", "The code is ready, sir.", ["other"]).facts_nowhere == 1


def test_a_reply_with_the_facts_in_the_wrong_form_is_behaviour() -> None:
    found = looked_at("The code is AB-77, sir.", "AB-77", [])
    assert (found.misses, found.form, found.fact_recall) == (1, 1, 1.0)


def test_a_right_reply_is_no_miss() -> None:
    assert looked_at("The code is AB-77, sir.", "The code is AB-77, sir.", []).misses == 0


@pytest.mark.parametrize(
    ("task", "wanted", "reply", "broken"),
    [
        ("classification", "billing", "I think billing", True),
        ("classification", "billing", "Returns.", False),
        ("extraction", '{"a": 1}', "a is 1", True),
        ("extraction", '{"a": 1}', '{"a": 2}', False),
        ("free text", "one two three four", "one", True),
        ("free text", "one two three four", "five six seven", False),
    ],
)
def test_form_is_what_the_task_asks_for(task: str, wanted: str, reply: str, broken: bool) -> None:
    assert breaks_form(task, wanted, reply, frozenset({"billing", "returns"})) == broken


def test_facts_that_change_are_noticed() -> None:
    assert looked_at("It costs $1234 now.", "no", []).volatile_share == 1
    assert looked_at("Use AB-77 there.", "no", []).volatile_share == 0
