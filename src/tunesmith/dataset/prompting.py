"""A conversation put differently: an instruction, examples before it, passages in it.

What prompting can do is measured twice, when `advise` looks for the best way of asking and when `evaluate` holds the
tuned model against it; both build their prompts here, so that it is the same one.
"""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
from msgspec import Struct

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.nearest import Index
from tunesmith.dataset.split import prompt_text

Prompt: TypeAlias = tuple[Message, ...]


class Recipe(Struct, frozen=True):
    """A way of asking without training: an instruction, and so many examples chosen for each question."""

    instruction: str | None = None
    examples: int = 0


class Examples:
    """Answered rows to choose examples from: those whose question is most like the one asked, by BM25."""

    def __init__(self, rows: Sequence[Conversation]) -> None:
        self._rows = rows
        self._index = Index([question(row) for row in rows])

    def __call__(self, row: Conversation, count: int) -> list[Conversation]:
        """At most `count` of the rows, the one most like `row` last, next to the question."""
        return [self._rows[position] for position in reversed(self._index.search(question(row), count))]


def question(row: Conversation) -> str:
    """What is looked for: the row's last turn before the answer."""
    return row.prompt[-1].content if row.prompt else prompt_text(row)


def reference(row: Conversation) -> str:
    """The text that the row's prompt should be answered with; empty for plain text and for tool calls."""
    answer = row.completion[0] if row.completion else None
    return answer.content.strip() if answer is not None and answer.role == "assistant" else ""


def asked_by(row: Conversation, recipe: Recipe, examples: Sequence[Conversation]) -> Conversation:
    """`row` asked by `recipe`, with `examples` shown before it; what is judged of it stays the same."""
    told = row.messages if recipe.instruction is None else with_instruction(row.messages, recipe.instruction)
    messages = with_examples(told, examples)
    added = len(messages) - len(row.messages)
    start = None if row.completion_start is None else row.completion_start + added
    return msgspec.structs.replace(row, messages=messages, completion_start=start)


def with_instruction(messages: Prompt, instruction: str) -> Prompt:
    """`messages` with the instruction at the end of their system message, or before their first user turn.

    Not in a system message of its own: several chat templates refuse a system role that the data does not use.
    """
    for index, message in enumerate(messages):
        if message.role in ("system", "developer"):
            return _replaced(messages, index, message.content, instruction)
        if message.role == "user":
            return _replaced(messages, index, instruction, message.content)
    return messages


def with_examples(messages: Prompt, examples: Sequence[Conversation]) -> Prompt:
    """`messages` with examples as earlier turns, after the system message; what they answer is not trained on.

    An example that repeats the prompt's own system message does not say it again.
    """
    head = 1 if messages and messages[0].role in ("system", "developer") else 0
    turns = [
        Message(message.role, message.content, weight=0 if message.role == "assistant" else None)
        for example in examples
        for message in (*example.prompt, *example.completion[:1])
        if message.role not in ("system", "developer")
    ]
    return (*messages[:head], *turns, *messages[head:])


def with_passages(messages: Prompt, passages: Sequence[str]) -> Prompt:
    """`messages` with retrieved passages before their last turn, and the request to use them."""
    if not passages or not messages:
        return messages
    context = "\n\n".join(passages)
    return _replaced(messages, len(messages) - 1, f"Use this information:\n\n{context}", messages[-1].content)


def shown_prompt(messages: Prompt) -> str:
    """The prompt as people read it: a single turn as it is, several with their roles."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def _replaced(messages: Prompt, index: int, *parts: str) -> Prompt:
    content = "\n\n".join(part for part in parts if part)
    return (*messages[:index], msgspec.structs.replace(messages[index], content=content), *messages[index + 1 :])
