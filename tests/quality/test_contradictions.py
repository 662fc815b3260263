import pytest

from tunesmith.dataset.conversation import Conversation, Message, Source
from tunesmith.quality.contradictions import Contradiction, contradicting_rows, outputs_differ
from tunesmith.quality.questions import same_question
from tunesmith.quality.rows import RowWriter


def contradicting(*rows: tuple[str, str], system: tuple[str, ...] = ()) -> tuple[Contradiction, ...]:
    writer = RowWriter()
    for line, (question, answer) in enumerate(rows, 1):
        first = (Message("system", system[line - 1]),) if system else ()
        messages = (*first, Message("user", question), Message("assistant", answer))
        writer.extend([Conversation(messages=messages, source=Source("rows.jsonl", line, "openai"))])
    return contradicting_rows(writer.rows())


def test_two_labels_for_one_question_contradict() -> None:
    rows = (("Where is my parcel?", "shipping"), ("How do I pay?", "billing"), ("where  is my parcel?", "billing"))
    assert contradicting(*rows) == (Contradiction(0, 2),)


def test_a_nearly_equal_question_contradicts_too() -> None:
    question = "I have been waiting for my parcel since last week and nobody answers, can you find out where it is?"
    assert contradicting((question, "shipping"), (f"Hello, {question} Thanks!", "billing")) == (Contradiction(0, 1),)


def test_courtesies_around_a_short_question_leave_it_the_same() -> None:
    rows = (("Where is it made?", "Italy"), ("Hello! Where is it made, please? Thank you.", "China"))
    assert contradicting(*rows) == (Contradiction(0, 1),)


def test_other_words_for_a_short_question_leave_it_the_same() -> None:
    rows = (("How do I fix the broken car?", "repair"), ("How can I repair the damaged automobile?", "sale"))
    assert contradicting(*rows) == (Contradiction(0, 1),)


def test_another_system_prompt_makes_it_another_question() -> None:
    rows = (("Where is my parcel?", "shipping"), ("Where is my parcel?", "billing"))
    assert contradicting(*rows, system=("Say the topic.", "Say the sender.")) == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Where is order 1234 that I placed last week?", "Where is order 1243 that I placed last week?"),
        ("When does the train to Berlin leave today?", "When does the train to Munich leave today?"),
        ("Can I return the shoes that I bought?", "Can I not return the shoes that I bought?"),
        ("How do I cancel my subscription today?", "How do I renew my subscription today?"),
        ("What is 3 + 4 divided by two?", "What is 3 - 4 divided by two?"),
        ("The flights to Paris in May", "The flights from Paris in May"),
        ("Do you sell hiking boots online?", "Do you sell hiking books online?"),
        ("How do I lock my card again?", "How do I block my card again?"),
        ("Why does it turn on?", "Why doesn't it turn on?"),
    ],
)
def test_a_number_a_name_a_negation_or_another_verb_makes_another_question(one: str, other: str) -> None:
    assert not same_question(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Where is my parcel?", "Please, where is my parcel"),
        ("Where is my parcel?", "where is my pracel?"),
        ("Please send a replacement.", "Plaese send a replacement."),
        ("Can you cancel my subscription?", "Could you please cancel our subscription, thanks"),
        ("The lamp does not turn on.", "The lamp doesn\u2019t turn on."),
        ("I would like to cancel my order.", "I'd like to cancel my orders."),
        ("Where can I buy a large photo frame?", "Where can I purchase a big picture frame?"),
        ("Hi, who fixed the broken car?", "Good morning team, who repaired the damaged automobile? Thanks very much!"),
    ],
)
def test_politeness_contractions_synonyms_typing_errors_and_punctuation_do_not(one: str, other: str) -> None:
    assert same_question(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("billing", "shipping"),
        ('{"total": 12}', '{"total": 13}'),
        ("It takes 3 days to arrive at your door.", "It takes 5 days to arrive at your door."),
        ("Yes, you can return it within a month.", "No, you can return it within a month."),
        ("The lamp that you bought is made in Italy.", "The lamp that you bought is made in China."),
        ("The lamp does come with a bulb in the box.", "The lamp does not come with a bulb in the box."),
        ("Send it back with the label in the box.", "We never accept used goods, sorry about that."),
    ],
)
def test_labels_values_numbers_and_statements_differ(one: str, other: str) -> None:
    assert outputs_differ(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Billing", " billing."),
        ('{"a": 1, "b": "x"}', '{"b":"x","a":1}'),
        ("It takes 3 days to arrive.", "It takes 3 business days to arrive."),
        ("You can return it within a month.", "You can return it to us within a month."),
        ("It is made in Italy by hand, as ever.", "It's made by hand in Italy, like ever."),
        ("The lamp is made in Italy by hand.", "THE LAMP IS MADE BY HAND IN ITALY."),
    ],
)
def test_case_spacing_key_order_and_wording_do_not(one: str, other: str) -> None:
    assert not outputs_differ(one, other)
