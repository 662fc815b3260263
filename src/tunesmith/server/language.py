"""What a model reads and says, whoever computes it: its tokens, where a reply ends, how it calls tools, grammars."""

import threading
from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tunesmith.dataset.call_format import CallFormat, call_format, shows_tools
from tunesmith.errors import ModelError
from tunesmith.evaluation.generate import end_tokens
from tunesmith.models.load import load_configs, load_tokenizer
from tunesmith.server.guide import Guide, json_tokens

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from transformers import PreTrainedTokenizerBase


class Language:
    """The tokens of one base model. `ends` end a reply; `context` is how many tokens a prompt and its reply may have.

    Raises ModelError for a tokenizer that cannot be read token by token.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", *, ends: Collection[int], vocabulary: int, context: int
    ) -> None:
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            name = tokenizer.name_or_path
            raise ModelError(f"model {name}: it has no fast tokenizer (tokenizer.json); convert it first")
        self.tokenizer = tokenizer
        self.ends = frozenset(ends)
        self.vocabulary = vocabulary
        self.context = context
        self._json_tokens: LLTokenizer | None = None
        self._spelling_lock = threading.Lock()

    def guide(self, grammar: str, *, param: str) -> Guide:
        """A guide for replies of `grammar`. Raises RequestError, with `param`, when it cannot be followed."""
        ends = [end for end in self.ends if end < self.vocabulary]
        return Guide(self._spelling(), self.vocabulary, ends, grammar, param=param)

    @cached_property
    def shows_tools(self) -> bool:
        """Whether the model's chat template writes the tools it is offered."""
        return shows_tools(self.tokenizer)

    @cached_property
    def call_format(self) -> CallFormat | None:
        """How the model's chat template writes a call of a tool."""
        return call_format(self.tokenizer, [str(self.tokenizer.convert_ids_to_tokens(end)) for end in self.ends])

    @cached_property
    def call_marks(self) -> dict[str, int]:
        """The special tokens that mark calls, by their text."""
        return {} if self.call_format is None else self.call_format.marks(self.tokenizer)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; it may end in the middle of a character."""
        return self._spelling().decode_bytes([token])

    def _spelling(self) -> "LLTokenizer":
        with self._spelling_lock:
            if self._json_tokens is None:
                self._json_tokens = json_tokens(self.tokenizer, self.vocabulary, sorted(self.ends))
            return self._json_tokens


def read_language(reference: str, *, most_context: int | None) -> Language:
    """The language of a base model that is computed elsewhere, of `most_context` tokens at most. Raises ModelError."""
    whole, generation = load_configs(reference)
    config: Any = whole.get_text_config()
    tokenizer = load_tokenizer(reference)
    context = context_of(config)
    return Language(
        tokenizer,
        ends=end_tokens(generation, tokenizer),
        vocabulary=config.vocab_size,
        context=context if most_context is None else min(context, most_context),
    )


def context_of(config: Any) -> int:
    """How many tokens a model of this (text) configuration reads at most; 4096 where it does not say."""
    return getattr(config, "max_position_embeddings", None) or 4096
