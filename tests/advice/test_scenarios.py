"""Planted scenarios, one right advice each: every branch of the tree is walked."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import pytest
from rich.console import Console
from tests.advice.planted import (
    LABELS,
    PlantedModel,
    butler,
    from_passages,
    handbook,
    no_code,
    orders,
    policies,
    right_label,
    row,
    shots,
    tickets,
    words,
    wrong_label,
)

from tunesmith.advice.advise import Asked, advise
from tunesmith.advice.decision import TREE
from tunesmith.advice.result import Advice, Needs
from tunesmith.advice.show import show_advice
from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.prompting import Prompt

MODEL = "meta-llama/Llama-3.1-8B"
BUTLER = "It is my humble duty to report that {}, if it please your gracious lordship, and I remain."


def label_if_told(prompt: Prompt) -> str:
    told = any("exactly one of these labels" in message.content for message in prompt)
    return right_label(prompt) if told else f"I think this is about {right_label(prompt)}."


def label_from_three(prompt: Prompt) -> str:
    return right_label(prompt) if shots(prompt) >= 3 else f"It may be {right_label(prompt)} I guess"


def plainly(prompt: Prompt) -> str:
    return "Okay, will do."


def almost_right(prompt: Prompt) -> str:
    """Wrong on one ticket in 14 or so, by its words."""
    return wrong_label(prompt) if sum(map(ord, prompt[-1].content.split("\n")[-1])) % 14 == 0 else right_label(prompt)


def broken_json(prompt: Prompt) -> str:
    return "The customer wants something."


def code_from_one(prompt: Prompt) -> str:
    name = right_label(prompt)
    return f"<<{name.upper()}|{name[:3]}>>" if shots(prompt) else f"The category is {name}."


def told_keys(prompt: Prompt) -> str:
    person, rest = prompt[-1].content.rsplit("\n", 1)[-1].split(" wants ")
    amount, rest = rest.split(" of ", 1)
    item = rest.split(",")[0]
    told = any("Its keys" in message.content for message in prompt)
    return json.dumps({"customer": person, "item": item, "quantity": amount}) if told else f"{person}: {amount} {item}"


def from_policies(prompt: Prompt) -> str:
    """Right when the prompt holds the passage, else what any shop would say."""
    text = prompt[-1].content
    _, found, told = text.partition(f"The {text.rsplit('return a ', 1)[1].rstrip('?')} can be returned within ")
    days, form = (told.split(" days")[0], told.split("form ")[1].split(".")[0]) if found else ("30", "Standard")
    return f"You may return it within {days} days, with the form {form}."


def contradictory(count: int = 400) -> list[Conversation]:
    """Every question twice, with two answers."""
    return [row(words(n // 2), LABELS[n % 4]) for n in range(count)]


def first_label(prompt: Prompt) -> str:
    return LABELS[len(prompt[-1].content) % 4]


def texts(count: int = 60) -> list[Conversation]:
    return [Conversation(text=words(n, 40)) for n in range(count)]


INTENTS = [row(f"{words(n)} {n % 80} {words(n + 10**6, 3)}", f"intent_of_{words(n % 80, 2)}") for n in range(640)]
INVOICES = [
    row(
        f"{words(n)}, to pay until March {n % 28 + 1}, {2000 + n % 25}",
        json.dumps({"due": f"{2000 + n % 25}-03-{n % 28 + 1:02}"}),
    )
    for n in range(400)
]
HANDBOOK_ROWS, HANDBOOK = handbook()
POLICY_ROWS, POLICIES = policies()
PIRATES = [
    row(
        f"Status of order {1000 + n}, {words(n, 4)}?",
        f"Arr, matey! Yer {words(n, 4)} of order {1000 + n} be sailin' the seven seas, yo ho!",
        "",
    )
    for n in range(300)
]
CODES = [
    row(f"{words(n)} {LABELS[n % 4]} {words(n + 10**6, 3)}", f"<<{LABELS[n % 4].upper()}|{LABELS[n % 4][:3]}>>")
    for n in range(400)
]
PRICES = [
    row(f"What does {words(n, 2)} cost today?", f"It costs ${(37 * n) % 900 + 10}.{n % 90 + 10} today.", "")
    for n in range(300)
]
UNRELATED = [words(n + 5 * 10**6, 30) for n in range(50)]


@dataclass(frozen=True)
class Scenario:
    name: str
    rows: Sequence[Conversation]
    model: PlantedModel
    advice: str
    needs: Needs = field(default_factory=Needs)
    passages: Sequence[str] = ()
    target: float | None = None
    said: str = ""
    model_name: str = MODEL


SCENARIOS = [
    Scenario("the base model already can", tickets(), PlantedModel(right_label), "stop at prompting", said="plain"),
    Scenario("an instruction does it", tickets(), PlantedModel(label_if_told), "stop at prompting", said="instruction"),
    Scenario("three examples do it", tickets(), PlantedModel(label_from_three), "few-shot examples", said="3 examples"),
    Scenario(
        "solved by a prompt, fresh data or not",
        tickets(),
        PlantedModel(right_label),
        "stop at prompting",
        Needs(fresh_data=True),
    ),
    Scenario(
        "documents hold the facts", HANDBOOK_ROWS, PlantedModel(from_passages), "retrieval (RAG)", passages=HANDBOOK
    ),
    Scenario("facts are missing and no documents given", HANDBOOK_ROWS, PlantedModel(no_code), "retrieval (RAG)"),
    Scenario(
        "facts are missing and the documents are others",
        HANDBOOK_ROWS,
        PlantedModel(no_code),
        "retrieval (RAG)",
        passages=UNRELATED,
        said="find those that hold them",
    ),
    Scenario(
        "behaviour, yet the answers must be fresh",
        butler(),
        PlantedModel(plainly),
        "retrieval (RAG)",
        Needs(fresh_data=True),
    ),
    Scenario("a manner of speaking", butler(), PlantedModel(plainly), "fine-tune"),
    Scenario(
        "a manner of speaking, documents no help", butler(), PlantedModel(plainly), "fine-tune", passages=UNRELATED
    ),
    Scenario("a format that is never kept", orders(), PlantedModel(broken_json), "fine-tune", said="broke the form"),
    Scenario("the right form and the wrong label", tickets(), PlantedModel(wrong_label), "fine-tune"),
    Scenario("a manner of speaking, few rows", butler(120), PlantedModel(plainly), "collect more data first"),
    Scenario("a handful of rows", tickets(12), PlantedModel(wrong_label), "collect more data first"),
    Scenario(
        "rows that contradict each other",
        contradictory(),
        PlantedModel(first_label),
        "collect more data first",
        said="agree",
    ),
    Scenario(
        "solved, and too slow",
        tickets(),
        PlantedModel(right_label, seconds=3),
        "fine-tune a smaller model",
        Needs(latency_budget=500),
    ),
    Scenario(
        "solved, and fast enough",
        tickets(),
        PlantedModel(right_label, seconds=0.1),
        "stop at prompting",
        Needs(latency_budget=500),
    ),
    Scenario(
        "solved, and too dear at the volume",
        tickets(),
        PlantedModel(right_label),
        "fine-tune a smaller model",
        Needs(monthly_calls=500_000_000),
    ),
    Scenario(
        "solved, and cheap at the volume",
        tickets(),
        PlantedModel(right_label),
        "stop at prompting",
        Needs(monthly_calls=10_000),
    ),
    Scenario(
        "examples do it, too slowly",
        tickets(),
        PlantedModel(label_from_three, seconds=3),
        "fine-tune a smaller model",
        Needs(latency_budget=500),
    ),
    Scenario(
        "solved and too slow, with too few rows to teach another",
        tickets(46),
        PlantedModel(right_label, seconds=3),
        "collect more data first",
        Needs(latency_budget=500),
    ),
    Scenario(
        "behaviour, on a model too slow even when tuned",
        butler(),
        PlantedModel(plainly, seconds=3),
        "fine-tune a smaller model",
        Needs(latency_budget=500),
    ),
    Scenario("nearly good enough", tickets(), PlantedModel(almost_right), "revisit prompt engineering"),
    Scenario(
        "nearly good enough, and too slow",
        tickets(),
        PlantedModel(almost_right, seconds=3),
        "fine-tune a smaller model",
        Needs(latency_budget=500),
    ),
    Scenario("a higher bar makes it a miss", tickets(), PlantedModel(wrong_label), "fine-tune", target=0.99),
    Scenario("eighty labels, each of them rare", INTENTS, PlantedModel(plainly), "fine-tune"),
    Scenario("dates to be written in another form", INVOICES, PlantedModel(broken_json), "fine-tune"),
    Scenario(
        "the facts stand in prose between other facts",
        POLICY_ROWS,
        PlantedModel(from_policies),
        "retrieval (RAG)",
        passages=POLICIES,
    ),
    Scenario("a manner that names its facts", PIRATES, PlantedModel(plainly), "fine-tune", said="broke the form"),
    Scenario("the same, fewer than a style needs", PIRATES[:150], PlantedModel(plainly), "collect more data first"),
    Scenario(
        "a way of writing codes that one example shows",
        CODES,
        PlantedModel(code_from_one),
        "few-shot examples",
        said="1 example",
    ),
    Scenario("keys that only the instruction tells", orders(300), PlantedModel(told_keys), "stop at prompting"),
    Scenario(
        "prices of today",
        PRICES,
        PlantedModel(lambda prompt: "It costs $1.00 today."),
        "retrieval (RAG)",
        said="facts that the prompt does not give",
    ),
    Scenario(
        "a hosted model that is too dear",
        tickets(),
        PlantedModel(right_label, bits=None),
        "fine-tune a smaller model",
        Needs(monthly_calls=500_000_000),
        model_name="gpt-4o",
        said="Qwen",
    ),
    Scenario(
        "behaviour of a model that nobody can tune",
        PIRATES,
        PlantedModel(plainly, bits=None),
        "fine-tune",
        model_name="acme-secret-1",
        said="Qwen/Qwen2.5-7B",
    ),
    Scenario("an unknown language", butler(), PlantedModel(plainly, bits=3.5), "continued pretraining"),
    Scenario("plain text in an unknown language", texts(), PlantedModel(plainly, bits=3.5), "continued pretraining"),
    Scenario("plain text in a known language", texts(), PlantedModel(plainly), "retrieval (RAG)"),
    Scenario("behind an endpoint that tells no bits", butler(), PlantedModel(plainly, bits=None), "fine-tune"),
]


@functools.cache
def advice_on(place: int) -> Advice:
    scenario = SCENARIOS[place]
    asked = Asked(rows=60, target=scenario.target, needs=scenario.needs)
    return advise(scenario.rows, scenario.model_name, scenario.model, passages=scenario.passages, asked=asked)


@pytest.fixture(params=range(len(SCENARIOS)), ids=lambda place: SCENARIOS[place].name)
def walked(request: pytest.FixtureRequest) -> tuple[Scenario, Advice]:
    return SCENARIOS[request.param], advice_on(request.param)


def test_the_advice_is_right_and_says_why(walked: tuple[Scenario, Advice]) -> None:
    scenario, advice = walked
    assert advice.recommendation == scenario.advice, advice.steps
    assert all(step.evidence for step in advice.steps)
    assert advice.would_change
    assert advice.pitfall
    everything = " ".join((advice.summary, *advice.would_change, *(step.evidence for step in advice.steps)))
    assert scenario.said in everything


def test_the_advice_survives_json_and_reads_at_eighty_columns(walked: tuple[Scenario, Advice]) -> None:
    _, advice = walked
    assert msgspec.json.decode(msgspec.json.encode(advice), type=Advice) == advice
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(show_advice(advice))
    text = console.export_text()
    assert text.startswith(advice.summary[:40])
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_every_leaf_of_the_tree_is_planted() -> None:
    leaves = {name for node in TREE.values() for name in (node.yes, node.no) if name not in TREE}
    assert leaves == {scenario.advice for scenario in SCENARIOS}


def test_every_question_is_reached_with_both_answers() -> None:
    steps = [step for place in range(len(SCENARIOS)) for step in advice_on(place).steps]
    answered = {(step.question, step.answer) for step in steps}
    assert {(node.text, answer) for node in TREE.values() for answer in ("yes", "no")} <= answered
