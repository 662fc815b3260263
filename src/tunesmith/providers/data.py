"""The run's rows in the provider's format, checked against its rules before anything leaves this machine.

A provider finds a bad row after the upload, minutes later, and names it by a line of a file that it made; here it is
named by the user's own file and line.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.formats import openai
from tunesmith.errors import DataError
from tunesmith.planning.data_facts import measure
from tunesmith.providers.protocol import Rules

Method = Literal["supervised", "dpo"]


class Prepared(Struct, frozen=True):
    """A file as the provider wants it; `tokens` is one pass over it, `notes` what a person should know about it."""

    content: bytes
    rows: int
    tokens: int
    notes: tuple[str, ...]


def prepare(rows: Sequence[Conversation], rules: Rules, method: Method, *, model: str, minimum: int) -> Prepared:
    """`rows` as the provider's JSONL. Raises DataError naming the first row that breaks a rule, and the rule."""
    if len(rows) < minimum:
        raise DataError(f"{rules.name} wants at least {minimum} rows and there are {len(rows)}; see {rules.source}")
    notes: Counter[str] = Counter()
    lines = []
    for row in rows:
        _check(row, rules, method)
        lines.append(msgspec.json.encode(_written(row, method, notes), enc_hook=str) + b"\n")
    content = b"".join(lines)
    if len(content) > rules.largest_file:
        raise DataError(
            f"the data are {len(content) / 2**20:,.0f} MiB in {rules.name}'s format, which takes "
            f"{rules.largest_file / 2**20:,.0f} MiB; give fewer or shorter rows"
        )
    facts = measure(rows, model)
    if rules.example_tokens is not None and facts.longest > rules.example_tokens:
        notes[f"longer than {rules.example_tokens:,} tokens, where {rules.name} cuts (longest: {facts.longest:,})"] += 1
    told = tuple(f"{count:,} row{'s' if count != 1 else ''}: {what}" for what, count in notes.items())
    return Prepared(content, len(rows), facts.tokens, told)


def _check(row: Conversation, rules: Rules, method: Method) -> None:
    if row.text is not None:
        raise DataError(f"{row.source}: plain text, and {rules.name} trains on conversations; remove the row")
    if row.desirable is False:
        raise DataError(f"{row.source}: labelled as a reply not to imitate; remove the row to train on the rest")
    for index, message in enumerate((*row.messages, *row.rejected)):
        where = f"{row.source}: message {index + 1}"
        if message.role not in rules.roles:
            raise DataError(f"{where}: {rules.name} has no role `{message.role}`, only {', '.join(rules.roles)}")
        if message.weight is not None and message.role != "assistant":
            raise DataError(f"{where}: `weight` belongs to assistant messages, and this is one of {message.role}")
        if message.role == "assistant" and not message.content.strip() and not message.tool_calls:
            raise DataError(f"{where}: an empty reply of the assistant; fill it in, or remove the row")
    if not row.messages or row.messages[-1].role != "assistant":
        raise DataError(f"{row.source}: {rules.name} wants the assistant's reply as the last message")
    if method == "dpo":
        _check_pair(row, rules)
    elif all(message.weight == 0 for message in row.messages if message.role == "assistant"):
        raise DataError(f"{row.source}: every reply has weight 0, so nothing of the row is learned; remove it")


def _check_pair(row: Conversation, rules: Rules) -> None:
    if not row.rejected:
        raise DataError(f"{row.source}: no rejected reply, and objective.kind dpo learns from pairs")
    for name, reply in (("chosen", row.completion), ("rejected", row.rejected)):
        if len(reply) != 1 or reply[0].role != "assistant":
            raise DataError(f"{row.source}: {rules.name} wants one assistant message as the {name} reply")


def _written(row: Conversation, method: Method, notes: Counter[str]) -> dict[str, Any]:
    """The row's object; what the provider's format has no place for is counted in `notes`."""
    if any(message.thinking for message in (*row.messages, *row.rejected)):
        notes["reasoning left out, which the format does not carry"] += 1
    if any(message.extra for message in (*row.messages, *row.rejected)):
        notes["fields of messages left out that the format does not have"] += 1
    if method == "dpo":
        asked: dict[str, Any] = {"messages": openai.write_messages(_plain(row.prompt))}
        if row.tools:
            asked["tools"] = list(row.tools)
        return {
            "input": asked,
            "preferred_output": openai.write_messages(_plain(row.completion)),
            "non_preferred_output": openai.write_messages(_plain(row.rejected)),
        }
    if row.rejected:
        notes["the rejected reply left out, which supervised training does not use"] += 1
    written = openai.write(msgspec.structs.replace(row, messages=_plain(row.messages), label=None, metadata={}))
    return {key: written[key] for key in ("messages", "tools") if key in written}


def _plain(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(msgspec.structs.replace(message, thinking=None, extra=None) for message in messages)
