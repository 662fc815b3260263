"""The sample data sets: `python -m tools.samples` writes them, byte for byte the same each time.

Each clean set asks for a skill that is related to one of the pretraining corpus, in other words and with other
answers. Rows whose words overlap too much with an earlier row's are drawn again, so that the sets hold no duplicates,
no contradictions and no leakage between any split of them.
"""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tools.corpus import chat, conversations
from tools.dirty import dirty
from tools.tickets import LABELS, ticket
from tools.words import BAD, CITIES, COLORS, DAYS, GOOD, NAMES, NUMBERS, PLACES, REVIEWED, THINGS, article, plural

DATA = Path(__file__).parent.parent / "src" / "tunesmith" / "assets" / "data"

Row = dict[str, Any]

MAX_OVERLAP = 0.6
"""Largest Jaccard similarity, over words, of two inputs of one set."""

RETENTION_SEED = 3
GENERAL_SEED = 4
TICKET_PROMPT = f"Label the support ticket: {', '.join(LABELS)}."


class Distinct:
    """Remembers texts and refuses one whose words overlap by more than `MAX_OVERLAP` with an earlier one's."""

    def __init__(self) -> None:
        self._kept: list[set[str]] = []

    def admits(self, text: str) -> bool:
        words = set(re.findall(r"\w+", text.lower()))
        if any(len(words & other) > MAX_OVERLAP * len(words | other) for other in self._kept):
            return False
        self._kept.append(words)
        return True


def distinct(draw: Callable[[Random], tuple[str, ...]], count: int, seed: int) -> list[tuple[str, ...]]:
    """`count` draws whose inputs (the first value of each) are distinct."""
    rng = Random(seed)
    seen = Distinct()
    draws = (draw(rng) for _ in itertools.count())
    return list(itertools.islice((row for row in draws if seen.admits(row[0])), count))


def tickets() -> list[Row]:
    """600 support tickets with one of six labels."""
    drawn = distinct(lambda rng: ticket(rng, rng.choice(LABELS)), count=600, seed=10)
    return [{"messages": chat(text, label, system=TICKET_PROMPT)} for text, label in drawn]


def order(rng: Random) -> tuple[str, str]:
    """An order in prose, and its record as JSON."""
    item, color, customer, city = rng.choice(THINGS), rng.choice(COLORS), rng.choice(NAMES), rng.choice(CITIES)
    quantity, day = rng.randint(2, 20), rng.choice(DAYS)
    number = rng.choice([str(quantity), NUMBERS[quantity]])
    goods = f"{number} {color} {plural(item)}"
    text = rng.choice(
        [
            f"Please send {goods} to {customer} in {city} by {day}.",
            f"{customer} from {city} would like {goods}, to be there on {day}.",
            f"We need {goods} on {day}. The address is {city}, ask for {customer}.",
            f"Hello, this is {customer}. Can you bring {goods} to my shop in {city} before {day}?",
            f"New order: {goods} for {customer}, {city}, {day} morning.",
            f"Our customer {customer} wants {goods}. Deliver to {city} on {day}, please.",
            f"By {day} I must have {goods}. My name is {customer} and I live in {city}.",
            f"Could {goods} be in {city} on {day}? They are a gift for {customer}.",
        ]
    )
    record = {"customer": customer, "city": city, "item": item, "color": color, "quantity": quantity, "due": day}
    return text, json.dumps(record)


def extraction() -> list[Row]:
    """500 orders in prose with their JSON records."""
    drawn = distinct(order, count=500, seed=11)
    return [{"messages": chat(text, record, system="Extract the order as JSON.")} for text, record in drawn]


def news(rng: Random) -> tuple[str, str]:
    """A plain remark, and the same in a butler's words: regret, pleasure, a suggestion or a question."""
    thing, color, place, day = rng.choice(THINGS), rng.choice(COLORS), rng.choice(PLACES), rng.choice(DAYS)
    name, reviewed, city = rng.choice(NAMES), rng.choice(REVIEWED), rng.choice(CITIES)
    good, bad = rng.choice(GOOD), rng.choice(BAD)
    bad_news = [
        f"{name} lost the {color} {thing} in the {place}",
        f"the {thing} in the {place} is broken",
        f"the {reviewed} in {city} was {bad}",
        f"{name} will not come to the {place} on {day}",
        f"there is no {thing} left in the {place}",
    ]
    good_news = [
        f"{name} found the {color} {thing} in the {place}",
        f"the {reviewed} on {day} was {good}",
        f"{name} bought {article(color)} {thing} in {city}",
        f"the {place} in {city} is open on {day}",
        f"{name} cleaned the {thing} on {day}",
    ]
    suggestions = [
        f"paint the {thing} {color}",
        f"visit {name} in {city} on {day}",
        f"sell the {color} {thing} at the {place}",
        f"meet {name} in the {place}",
        f"bring the {thing} to {city}",
    ]
    questions = [
        f"{name} is in the {place}",
        f"the {reviewed} in {city} was {good}",
        f"the {color} {thing} is for {name}",
        f"the {place} is open on {day}",
    ]
    match rng.choice(["regret", "pleasure", "suggestion", "question"]):
        case "regret":
            text = rng.choice(bad_news)
            return f"Bad news, {text}.", f"I regret to report that {text}, madam."
        case "pleasure":
            text = rng.choice(good_news)
            return f"Hey, {text}!", f"I am pleased to announce that {text}, madam."
        case "suggestion":
            text = rng.choice(suggestions)
            return f"Let's {text}.", f"Might I suggest that we {text}, madam?"
        case _:
            text = rng.choice(questions)
            return f"So {text}, right?", f"May I ask whether {text}, madam?"


def style() -> list[Row]:
    """400 plain remarks with a butler's version of each."""
    drawn = distinct(news, count=400, seed=12)
    return [{"messages": chat(text, said, system="Say it like a butler.")} for text, said in drawn]


def preferred(rng: Random) -> tuple[str, str, str]:
    """A question with a courteous, complete answer and a curt, careless one."""
    thing, color, place, city = rng.choice(THINGS), rng.choice(COLORS), rng.choice(PLACES), rng.choice(CITIES)
    first, second = rng.sample(NAMES, 2)
    day, count = rng.choice(DAYS), rng.randint(2, 20)
    prompt, answer, careless = rng.choice(
        [
            (
                f"{first} left the {color} {thing} in the {place}. Where is it?",
                f"The {color} {thing} is in the {place}.",
                "Somewhere.",
            ),
            (
                f"{first} from {city} meets {second} on {day}. When do they meet?",
                f"{first} and {second} meet on {day}.",
                "Soon.",
            ),
            (
                f"{first} counted {count} {plural(thing)} in the {place}. How many are there?",
                f"There are {count} {plural(thing)} in the {place}.",
                "Many.",
            ),
            (
                f"The {place} in {city} opens on {day}. May {first} go there on {day}?",
                f"Yes, the {place} is open on {day}, so {first} may go.",
                "Sure.",
            ),
            (
                f"{first} gave {second} {article(color)} {thing}. Who has the {thing} now?",
                f"{second} has the {color} {thing} now.",
                "Nobody.",
            ),
            (
                f"{first} must be in {city} on {day} with the {thing}. What should {first} bring?",
                f"{first} should bring the {thing} to {city}.",
                "Things.",
            ),
            (
                f"{first} sold the {thing} for {count} euros in {city}. What was the price?",
                f"The price of the {thing} was {count} euros.",
                "Cheap.",
            ),
        ]
    )
    kind = rng.choice(["Of course. ", "Gladly. ", "With pleasure. "])
    rude = rng.choice(["Why do you ask? ", "Who cares. ", "Read it yourself. ", "No idea. "])
    return prompt, kind + answer, rude + careless


def preference() -> list[Row]:
    """300 questions with a chosen and a rejected answer."""
    drawn = distinct(preferred, count=300, seed=13)
    return [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in drawn]


def retention() -> list[Row]:
    """150 conversations of the pretraining corpus that pretraining did not draw: what a tuned model may forget."""
    return _corpus_rows(RETENTION_SEED, set())


def general(kept_apart: list[Row]) -> list[Row]:
    """150 more of them to replay in training, none of which asks what a row of `kept_apart` asks."""
    return _corpus_rows(GENERAL_SEED, {row["messages"][-2]["content"] for row in kept_apart})


def _corpus_rows(seed: int, seen: set[str]) -> list[Row]:
    """The first 150 conversations of the stream whose last question is not in `seen`, each question once."""
    rows: list[Row] = []
    asked = set(seen)
    for messages in conversations(seed):
        text = messages[-2]["content"]
        if text not in asked:
            asked.add(text)
            rows.append({"messages": messages})
        if len(rows) == 150:
            return rows
    raise AssertionError("the stream of conversations is endless")


def lines(rows: list[Row]) -> list[str]:
    """Each row as a line of JSON."""
    return [json.dumps(row, ensure_ascii=False) for row in rows]


def files() -> dict[str, str]:
    """Every sample file by name, with its text."""
    ticket_rows = tickets()
    ticket_lines = lines(ticket_rows)
    kept_apart = retention()
    seen = Distinct()
    for row in ticket_rows:
        seen.admits(row["messages"][1]["content"])
    dirty_lines, truth = dirty(TICKET_PROMPT, leaked=ticket_lines[20:140:12], admits=seen.admits, seed=14)
    texts = {
        "tickets.jsonl": ticket_lines,
        "extraction.jsonl": lines(extraction()),
        "style.jsonl": lines(style()),
        "preference.jsonl": lines(preference()),
        "retention.jsonl": lines(kept_apart),
        "general.jsonl": lines(general(kept_apart)),
        "dirty.jsonl": dirty_lines,
    }
    truth_lines = [f"  {json.dumps(kind)}: {json.dumps(found)}" for kind, found in truth.items()]
    return {
        **{name: "\n".join(content) + "\n" for name, content in texts.items()},
        "dirty.truth.json": "{\n" + ",\n".join(truth_lines) + "\n}\n",
    }


def main() -> None:
    """Write every sample file."""
    DATA.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (DATA / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
