"""Chat template → token ids and loss mask, for any template, whether or not it marks what to train on.

Hardly any published template carries `{% generation %}` markers, and a mask that is silently all zeros or all ones is
the field's most common failure. So the mask is derived from what the template writes. The conversation is rendered
once and tokenized once; that text is what is trained on. Where each reply begins is where the rendering of the turns
before it, with its generation prompt, ends; where it ends is found by rendering it again with a sentinel for its
content. The token with which the template closes the turn is trained too, or the model never learns to stop. The cost
is two more renderings per trained reply (about 0.1 ms) and none of it touches the tokenizer.

A template that writes the date gets that of `today`, so that a run resumed after midnight sees the same tokens.
"""

import datetime
import functools
import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
from jinja2 import TemplateError
from msgspec import Struct
from numpy.typing import NDArray

from tunesmith.cache import digest
from tunesmith.dataset.conversation import Conversation, Message, ToolCall
from tunesmith.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns: TypeAlias = list[dict[str, Any]]
"""Messages as chat templates take them."""

Masked: TypeAlias = tuple[NDArray[np.int32], NDArray[np.bool_]]
"""A whole row's tokens and which of them are supervised; both (tokens,)."""

BATCH_ROWS = 256
"""Rows tokenized at a time: the tokenizer spreads them over its threads."""

SENTINEL = "q7~reply~7q"
"""Stands for what a reply says: text that no template looks for and JSON leaves as it is."""

PROBE: Turns = [{"role": "user", "content": "?"}]

TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError)
"""How a template refuses a conversation: by its own raise_exception, or by an operation on what is not there."""

log = logging.getLogger(__name__)


class Rendered(Struct, frozen=True):
    """One row as the model sees it: `tokens` int32 (tokens,), `supervised` bool (tokens,), True where trained.

    `truncated` says that `max_length` cut the row; `supervised_lost` is how many supervised tokens that cost.
    """

    tokens: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    truncated: bool
    supervised_lost: int


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` of a rendered text."""

    start: int
    end: int


class Renderer:
    """Renders conversations with one tokenizer's chat template."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", *, today: datetime.date | None = None) -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                f"model {tokenizer.name_or_path}: its tokenizer cannot say which characters a token covers; "
                "give a folder with a tokenizer.json"
            )
        self._tokenizer = tokenizer
        self._today = today or datetime.date.today()
        special = {
            *tokenizer.all_special_tokens,
            *(str(t) for t in tokenizer.added_tokens_decoder.values() if t.special),
        }
        self._special = re.compile(
            "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)) or "$^"
        )
        self._header = self._generation_prompt()
        self._stop = self._stop_token()
        self._warned = False

    def render(self, row: Conversation, *, max_length: int | None = None) -> Rendered:
        """The row's tokens and loss mask. Raises DataError when the template refuses the row."""
        return next(self.render_many([row], max_length=max_length))

    def render_many(self, rows: Iterable[Conversation], *, max_length: int | None = None) -> Iterator[Rendered]:
        """The rows' tokens and loss masks, in order. Raises DataError when the template refuses a row."""
        iterator = iter(rows)
        while batch := list(itertools.islice(iterator, BATCH_ROWS)):
            chats = self._chats([row for row in batch if row.text is None])
            documents = self._documents([row.text for row in batch if row.text is not None])
            for row in batch:
                yield _truncate(*next(chats if row.text is None else documents), max_length)

    def prompt(self, row: Conversation) -> list[int]:
        """Token ids of the row's prompt, up to where its reply begins in training."""
        return list(self._tokenizer.encode(self.prompt_text(row), add_special_tokens=row.text is not None))

    def prompt_text(self, row: Conversation) -> str:
        """What `prompt` makes tokens of."""
        if row.text is not None:
            return row.text
        turns = self._acceptable(row, [*row.prompt, Message("assistant", SENTINEL)])
        text = self._template(turns, row)
        start = self._reply_start(turns, len(turns) - 1, row, text, text)
        return text[:start]

    def fingerprint(self) -> str:
        """Identifies what conversations become: tokenizer, template, and the day where the template writes it."""
        template = self._tokenizer.chat_template
        texts = template if isinstance(template, dict) else {"default": template or ""}
        dated = {name: _dated(text, self._today) for name, text in texts.items()}
        special = {name: str(token) for name, token in self._tokenizer.special_tokens_map.items()}
        return digest(self._tokenizer.backend_tokenizer.to_str(), repr(sorted(dated.items())), repr(special))

    def text(self, row: Conversation) -> str:
        """The text that is trained on: what the template makes of the row, or the plain text itself."""
        return self._text(row)[0] if row.text is None else row.text

    def _chats(self, rows: Sequence[Conversation]) -> Iterator[Masked]:
        if not rows:
            return
        texts, spans = zip(*(self._text(row) for row in rows), strict=True)
        # Rows are cut by max_length; transformers would foretell indexing errors from the tokenizer's own limit.
        encoded = self._tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for ids, offsets, trained in zip(encoded["input_ids"], encoded["offset_mapping"], spans, strict=True):
            yield np.array(ids, np.int32), _mask(offsets, trained)

    def _documents(self, texts: list[str]) -> Iterator[Masked]:
        """Plain texts with the tokenizer's own special tokens around them, and their end; every token is trained."""
        end = self._tokenizer.eos_token_id
        for ids in self._tokenizer(texts, verbose=False)["input_ids"] if texts else ():
            framed = ids if end is None or ids[-1:] == [end] else [*ids, end]
            yield np.array(framed, np.int32), np.ones(len(framed), np.bool_)

    def _text(self, row: Conversation) -> tuple[str, list[Span]]:
        turns = self._acceptable(row, row.messages)
        text = self._template(turns, row)
        spans = []
        for index in _trained_turns(row, offset=len(turns) - len(row.messages)):
            text, span = self._locate(turns, index, row, text)
            spans.append(span)
        return text, spans

    def _locate(self, turns: Turns, index: int, row: Conversation, text: str) -> tuple[str, Span]:
        """Where turn `index` stands in `text`, with the token that ends it; appended where the template writes none."""
        told = _with_sentinel(turns[index])
        marked = self._try([*turns[:index], told, *turns[index + 1 :]], row) or ""
        _, found, rest = marked.rpartition(SENTINEL)
        if not found or not text.endswith(rest):
            raise self._unclear(row, index)
        start = self._reply_start(turns, index, row, text, marked)
        last = index == len(turns) - 1
        end = len(text) - len(rest)  # of what the reply says
        if turns[index].get("tool_calls"):
            # More follows within the turn (braces, tags): up to where the turn ends when it is rendered as the last.
            tail = rest if last else (self._try([*turns[:index], told], row) or "").rpartition(SENTINEL)[2]
            closing = rest[: shared_length(rest, tail)]
            stops = [stop.end() for stop in self._special.finditer(closing)]
            if stops:
                return text, Span(start, end + stops[-1])
            end += len(closing)
        stop = self._special.search(text, end)
        if stop is not None and not text[end : stop.start()].strip():
            return text, Span(start, stop.end())
        if last:
            text = text[:end] + self._stop
            return text, Span(start, len(text))
        blank = len(text) - len(text[end:].lstrip()) - end
        return text, Span(start, end + blank)

    def _reply_start(self, turns: Turns, index: int, row: Conversation, text: str, marked: str) -> int:
        """Where the reply of turn `index` begins in `text`; `marked` has the sentinel for its content."""
        asked = self._try(turns[:index], row, generation=True) if index else None
        if asked is not None and text.startswith(asked):
            return len(asked)
        if asked is not None:
            shared = min(shared_length(marked, asked), shared_length(text, asked))
            if self._header and shared > len(asked) - len(self._header):
                self._warn(asked[shared:])
                return shared
        # The template writes earlier turns differently once there are later ones: look for the header itself.
        content = marked.rfind(SENTINEL)
        header = self._header if self._header in marked[:content] else self._header.partition("<think>")[0]
        place = text.rfind(header, 0, content) if header else -1
        if place < 0:
            raise self._unclear(row, index)
        return place + len(header)

    def _unclear(self, row: Conversation, index: int) -> ModelError:
        return ModelError(
            f"{row.source}: the chat template of {self._tokenizer.name_or_path} does not show where the reply of "
            f"message {index + 1} begins and ends; give the model a template that writes replies as they are"
        )

    def _acceptable(self, row: Conversation, messages: Sequence[Message]) -> Turns:
        """The messages in the first form that the template takes; raises DataError with its own words when none is."""
        refusal: Exception | None = None
        for turns in _forms(messages):
            try:
                self._template(turns, row)
            except TEMPLATE_ERRORS as error:
                refusal = refusal or error
            else:
                return turns
        raise DataError(
            f"{row.source}: the chat template of {self._tokenizer.name_or_path} refuses this row: {refusal}"
        ) from refusal

    def _try(self, turns: Turns, row: Conversation, *, generation: bool = False) -> str | None:
        try:
            return self._template(turns, row, generation=generation)
        except TEMPLATE_ERRORS:
            return None

    def _template(self, turns: Turns, row: Conversation | None, *, generation: bool = False) -> str:
        tools: Any = list(row.tools) if row is not None and row.tools else None
        text: Any = self._tokenizer.apply_chat_template(
            turns,
            tools=tools,
            chat_template=_dated(self._tokenizer.get_chat_template(tools=tools), self._today),
            tokenize=False,
            add_generation_prompt=generation,
        )
        return str(text)

    def _generation_prompt(self) -> str:
        """What the template writes to have the model speak; empty when it writes nothing."""
        try:
            plain, asked = (self._template(PROBE, None, generation=generation) for generation in (False, True))
        except TEMPLATE_ERRORS:
            return ""
        return asked[shared_length(plain, asked) :]

    def _stop_token(self) -> str:
        """What ends a reply where the template writes nothing after the last: what follows it before a next turn."""
        try:
            text = self._template([*PROBE, {"role": "assistant", "content": SENTINEL}, *PROBE], None)
        except TEMPLATE_ERRORS:
            text = ""
        after = text.partition(SENTINEL)[2]
        stop = self._special.match(after.lstrip())
        return stop[0] if stop else str(self._tokenizer.eos_token or "")

    def _warn(self, missing: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "model %s: its chat template ends a prompt with %r, which it leaves out before a finished reply; "
                "training follows the finished replies, so serve without it or put it into the replies",
                self._tokenizer.name_or_path,
                missing,
            )


@functools.lru_cache(maxsize=8)
def _dated(template: str, today: datetime.date) -> str:
    """The template with its clock, transformers' `strftime_now`, stopped at `today`.

    A macro at its head, since transformers passes no functions into a template.
    """
    formats = set(re.findall(r"strftime_now\(\s*[\"']([^\"']+)[\"']\s*\)", template))
    if not formats:
        return template
    dates = {form: today.strftime(form) for form in sorted(formats)}
    return f"{{%- macro strftime_now(form) -%}}{{{{ {dates!r}[form] }}}}{{%- endmacro -%}}{template}"


def _forms(messages: Sequence[Message]) -> Iterator[Turns]:
    """The messages as templates may want them: as they are, with textual arguments, without a system turn."""
    for parsed in (True, False):
        turns = [_turn(message, parsed=parsed) for message in messages]
        yield turns
        renamed = [{**turn, "role": "system"} if turn["role"] == "developer" else turn for turn in turns]
        if renamed != turns:
            yield renamed
        if len(renamed) > 1 and renamed[0]["role"] == "system" and renamed[1]["role"] == "user":
            # Gemma's own advice: system text opens the first user turn.
            told = "\n\n".join(turn["content"] for turn in renamed[:2])
            yield [{**renamed[1], "content": told}, *renamed[2:]]
        if not any(message.tool_calls for message in messages):
            return


def _turn(message: Message, *, parsed: bool) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking is not None:
        # Qwen's, DeepSeek's and GLM's templates read the first, GPT-OSS's the second.
        turn |= {"reasoning_content": message.thinking, "thinking": message.thinking}
    if message.tool_calls:
        turn["tool_calls"] = [_call(call, parsed=parsed) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        turn["name"] = message.name
    return turn


def _call(call: ToolCall, *, parsed: bool) -> dict[str, Any]:
    arguments: Any = call.arguments
    if parsed:
        try:
            arguments = msgspec.json.decode(call.arguments)
        except msgspec.DecodeError:
            arguments = call.arguments
    identity = {} if call.id is None else {"id": call.id}
    return {**identity, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _trained_turns(row: Conversation, *, offset: int) -> Iterator[int]:
    """Indices of the turns to train on; `offset` is how far merging a system turn has moved them."""
    for index, message in enumerate(row.messages):
        chosen = row.completion_start is None or index >= row.completion_start
        if message.role == "assistant" and message.weight != 0 and chosen:
            yield index + offset


def shared_length(one: str, other: str) -> int:
    """How many characters the two texts begin with in common."""
    for place, (character, others) in enumerate(zip(one, other, strict=False)):
        if character != others:
            return place
    return min(len(one), len(other))


def _with_sentinel(turn: dict[str, Any]) -> dict[str, Any]:
    """The turn with the sentinel for the last thing it says: its content, or its last call's arguments."""
    if not turn.get("tool_calls"):
        return {**turn, "content": SENTINEL}
    *calls, last = turn["tool_calls"]
    arguments: Any = SENTINEL if isinstance(last["function"]["arguments"], str) else {"value": SENTINEL}
    return {**turn, "tool_calls": [*calls, {**last, "function": {**last["function"], "arguments": arguments}}]}


def _mask(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> NDArray[np.bool_]:
    """True for the tokens that share a character with a span."""
    edges = np.array(offsets, np.int64).reshape(-1, 2)  # (tokens, 2)
    mask = np.zeros(len(edges), np.bool_)
    for span in spans:
        mask |= (edges[:, 0] < span.end) & (edges[:, 1] > span.start)
    return mask


def _truncate(tokens: NDArray[np.int32], supervised: NDArray[np.bool_], max_length: int | None) -> Rendered:
    if max_length is None or len(tokens) <= max_length:
        return Rendered(tokens, supervised, truncated=False, supervised_lost=0)
    lost = int(supervised[max_length:].sum())
    return Rendered(tokens[:max_length], supervised[:max_length], truncated=True, supervised_lost=lost)
