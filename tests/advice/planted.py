"""Data sets and models that answer as planted, so that the right advice is known."""

import json
import random
from collections.abc import Callable, Sequence

from tunesmith.advice.responders import Reply
from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.prompting import Prompt

LABELS = ("billing", "shipping", "returns", "account")
SYSTEM = "Sort the ticket."

Knows = Callable[[Prompt], str]


class PlantedModel:
    """A `Responder` whose replies are a function of the prompt alone."""

    def __init__(
        self,
        reply: Knows,
        *,
        seconds: float = 0.2,
        context: int | None = None,
        bits: float | None = 0.9,
    ) -> None:
        self._reply, self._seconds, self.context, self._bits = reply, seconds, context, bits
        self.asked: list[Prompt] = []

    def count_tokens(self, prompt: Prompt) -> int:
        return sum(len(message.content.split()) + 4 for message in prompt)

    def answer(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        self.asked += prompts
        texts = [self._reply(prompt) for prompt in prompts]
        return [
            Reply(text, self.count_tokens(prompt), len(text.split()), self._seconds)
            for text, prompt in zip(texts, prompts, strict=True)
        ]

    def bits_per_byte(self, rows: Sequence[Conversation]) -> float | None:
        return self._bits


def row(user: str, answer: str, system: str = SYSTEM) -> Conversation:
    turns = (Message("system", system), Message("user", user), Message("assistant", answer))
    return Conversation(turns if system else turns[1:])


WORDS = [first + second for first in ("ba", "ko", "ri", "tu", "me", "sa", "lo", "vi") for second in "bdfgklmnprstvz"]


def words(number: int, count: int = 9) -> str:
    """Words of no meaning, different for each number, so that no two rows are near-duplicates."""
    return " ".join(random.Random(number).choices(WORDS, k=count))


def tickets(count: int = 400) -> list[Conversation]:
    """Each ticket says its own class in its words."""
    return [row(f"{words(n)} {LABELS[n % 4]} {words(n + 10**6, 3)}", LABELS[n % 4]) for n in range(count)]


def right_label(prompt: Prompt) -> str:
    return next(name for name in LABELS if name in prompt[-1].content)


def wrong_label(prompt: Prompt) -> str:
    return LABELS[(LABELS.index(right_label(prompt)) + 1) % 4]


def orders(count: int = 400) -> list[Conversation]:
    """Orders to be extracted; every value stands in the prompt."""
    rows = []
    for n in range(count):
        person, item, amount = words(n, 1).title(), words(n + 10**6, 2), str(n % 19 + 2)
        answer = json.dumps({"customer": person, "item": item, "quantity": amount})
        rows.append(row(f"{person} wants {amount} of {item}, {words(n + 2 * 10**6, 5)}", answer, "Extract."))
    return rows


def butler(count: int = 400) -> list[Conversation]:
    """A manner of speaking: the reference says the prompt's words in a frame of fixed words."""
    return [
        row(
            f"Say it like a butler: {words(n, 6)}",
            f"It is my humble duty to report that {words(n, 6)}, if it please your gracious lordship, and I remain.",
            "",
        )
        for n in range(count)
    ]


def handbook(count: int = 400) -> tuple[list[Conversation], list[str]]:
    """Questions about parts that only the handbook knows, and the handbook's passages."""
    rows, passages = [], []
    for n in range(count):
        part, code = words(n, 3), f"{words(n + 10**6, 1).upper()}-{7000 + 13 * n}"
        rows.append(row(f"Which code has the part {part}?", f"The code is {code} for that part, sir.", ""))
        passages.append(f"The part {part} is kept in the store under the code {code}, {words(n + 2 * 10**6, 8)}.")
    return rows, passages


def policies(count: int = 300) -> tuple[list[Conversation], list[str]]:
    """Questions about the return of things, and the shop's policy on each, in prose."""
    rows, passages = [], []
    for n in range(count):
        item, days, form = words(n, 2), n % 89 + 11, words(n + 10**6, 1).title()
        reply = f"You may return it within {days} days, with the form {form}."
        rows.append(row(f"How long may I return a {item}?", reply, "You are a shop assistant."))
        passages.append(
            f"Returns. The {item} can be returned within {days} days of purchase. Use the form {form}. "
            f"{words(n + 3 * 10**6, 6)}"
        )
    return rows, passages


def from_passages(prompt: Prompt) -> str:
    """Answers right when the prompt holds the passage, and makes up a code otherwise."""
    text = prompt[-1].content
    part = text.rsplit("Which code has the part ", 1)[1].rstrip("?")
    code = (
        text.split(f"{part} is kept in the store under the code ")[1].split(",")[0]
        if f"{part} is kept" in text
        else "X"
    )
    return f"The code is {code} for that part, sir."


def no_code(prompt: Prompt) -> str:
    return "The code is something for that part, sir."


def shots(prompt: Prompt) -> int:
    """How many examples the prompt shows."""
    return sum(message.role == "assistant" for message in prompt)
