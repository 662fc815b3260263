"""How a chat template writes a call of a tool, found by letting it write one.

There is no list of model families here: a call with telling names is rendered, and what stands around its name and its
arguments is the format. That covers every template which writes a name and then the arguments as JSON (Qwen 2.5 and 3,
Llama 3.1, Mistral, DeepSeek V3, Hermes, the embedded model's). Templates that spell arguments out as tags or as Python
(Qwen 3.5, GLM, Gemma 4, LFM2) have no `CallFormat`, nor have those whose calls begin like any other text (GPT-OSS).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.dataset.render import PROBE, SENTINEL, TEMPLATE_ERRORS, Turns, shared_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOOL = {
    "type": "function",
    "function": {
        "name": "q7tool7q",
        "description": "Answers.",
        "parameters": {"type": "object", "properties": {"value": {"type": "string", "description": "What."}}},
    },
}

_MARK = re.compile(r"\s*[<\[{]")
"""How a call must begin to be told from text: with a bracket of some kind."""

_NAMES = ("q7name0", "q7name1")

_VALUES = ("q7value0", "q7value1")


@dataclass(frozen=True)
class CallFormat:
    """The texts around a call: `before` its name, `between` name and arguments, `after` them, `again` to the next name.

    `again` is None where a reply holds one call only. Whitespace at their edges is the template's and may differ.
    """

    before: str
    between: str
    after: str
    again: str | None

    def marks(self, tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
        """The special tokens that the format holds, by their text."""
        whole = "".join((self.before, self.between, self.after, self.again or ""))
        added = {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        return {text: number for text, number in added.items() if text in whole}


def shows_tools(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template writes the tools that a model is offered."""
    return _render(tokenizer, PROBE, tools=True) != _render(tokenizer, PROBE, tools=False)


def call_format(tokenizer: "PreTrainedTokenizerBase", ends: Sequence[str]) -> CallFormat | None:
    """The format of the template's calls, None where it is none that can be read back.

    `ends` are the special tokens that end a reply.
    """
    for parsed in (True, False):  # arguments as an object, or as the JSON text of one
        if _render(tokenizer, _calling(1, "", parsed=parsed), tools=True) is None:
            continue
        for content in (SENTINEL, ""):  # some templates write no content beside calls
            one = _written(tokenizer, 1, content, parsed=parsed, ends=ends)
            if one is None:
                continue
            before, between, after = one
            # GPT-OSS opens a turn of its own for a call, and without content there is nothing to tell it by.
            if _header(tokenizer) in before or not _MARK.match(before):
                return None
            two = _written(tokenizer, 2, content, parsed=parsed, ends=ends)
            alike = two is not None and (two[0], two[1], two[3], two[4]) == (before, between, between, after)
            return CallFormat(before, between, after, two[2] if two is not None and alike else None)
        return None
    return None


def _written(
    tokenizer: "PreTrainedTokenizerBase", count: int, content: str, *, parsed: bool, ends: Sequence[str]
) -> list[str] | None:
    """What stands around the names and arguments of `count` calls, from the `content` on; None where they are not."""
    text = _render(tokenizer, _calling(count, content, parsed=parsed), tools=True)
    if text is None or content not in text:
        return None
    if content:
        rest = text.rpartition(content)[2]
    else:
        asked = _render(tokenizer, PROBE, tools=True, generation=True) or ""
        rest = text[shared_length(asked, text) :]
    found = []
    for name, value in zip(_NAMES[:count], _VALUES, strict=False):
        place = re.search(rf"{name}(.*?)\{{\s*\"value\"\s*:\s*\"{value}\"\s*\}}", rest, re.DOTALL)
        if place is None:
            return None
        found += [rest[: place.start()], place[1]]
        rest = rest[place.end() :]
    end = min((at for token in ends if (at := rest.find(token)) >= 0), default=len(rest))
    return [*found, rest[:end].rstrip()]


def _header(tokenizer: "PreTrainedTokenizerBase") -> str:
    """What opens a reply."""
    asked = _render(tokenizer, PROBE, tools=True, generation=True) or ""
    return asked[len(_render(tokenizer, PROBE, tools=True) or "") :].strip() or SENTINEL


def _calling(count: int, content: str, *, parsed: bool) -> Turns:
    """A question and a reply that says `content` and calls tools."""
    calls = [
        {
            "id": f"call{name}",
            "type": "function",
            "function": {"name": name, "arguments": {"value": value} if parsed else json.dumps({"value": value})},
        }
        for name, value in zip(_NAMES[:count], _VALUES, strict=False)
    ]
    return [*PROBE, {"role": "assistant", "content": content, "tool_calls": calls}]


def _render(tokenizer: "PreTrainedTokenizerBase", turns: Turns, *, tools: bool, generation: bool = False) -> str | None:
    try:
        return str(
            tokenizer.apply_chat_template(
                turns, tools=[_TOOL] if tools else None, tokenize=False, add_generation_prompt=generation
            )
        )
    except TEMPLATE_ERRORS:
        return None
