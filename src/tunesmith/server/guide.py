"""Holds a reply to a grammar: only tokens that keep it JSON of a schema, or a call of a tool, are allowed (llguidance).

Where the reply nears its token limit, the shortest ending that closes what is open is forced, so that an object of any
form always parses, however long-winded the model is. A schema may ask for more than there is room for.
"""

import copy
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from tunesmith.server.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
"""The schema of `json_object`."""

_ENDINGS = (
    *("", '"', "null", ":null", '":null', '"":null', '"x":null'),
    *("n", "n:null", 'n"', 'n":null', '0"', '00"', '000"', '0000"', '0":null', '00":null', '000":null', '0000":null'),
    *("0", "rue", "ue", "e", "alse", "lse", "se", "ull", "ll", "l"),
)
"""What may complete the value, key, escape, number or word that is under way; closing brackets follow."""

_LAST_TOKENS = 24
"""Before the limit, how early to look whether the reply can still be closed: more than any ending of modest depth."""

_MARGIN = 6
"""Tokens to spare: one token may open several brackets, or begin a character that takes some more to end."""


def json_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of JSON that follows `schema`."""
    return f"start: {json_rule(schema)}"


def json_rule(schema: Mapping[str, Any], **spelling: str) -> str:
    """JSON that follows `schema`, as part of a grammar's rule; `spelling` is llguidance's, else without whitespace."""
    return f"%json {json.dumps({**schema, 'x-guidance': {'whitespace_flexible': False, **spelling}})}"


class Guide:
    """Holds one reply to `grammar`. Raises RequestError, with `param`, for a grammar that cannot be held to."""

    def __init__(
        self, tokens: LLTokenizer, vocabulary: int, ends: "Sequence[int]", grammar: str, *, param: str
    ) -> None:
        problem = LLMatcher.validate_grammar(grammar, tokens)
        if problem:
            raise RequestError(
                f"{param}: the schema cannot be followed: {problem.splitlines()[0]}", code="invalid_value", param=param
            )
        self.grammar = grammar
        self._tokens = tokens
        self._matcher = LLMatcher(tokens, grammar, log_level=0)  # a token that does not fit is no news
        self._vocabulary = vocabulary
        self._ends = list(ends)
        self._forced: list[int] = []

    def fresh(self) -> "Guide":
        """Another one of the same schema, for one more reply; compiling the schema again would cost more."""
        other = copy.copy(self)
        other._matcher, other._forced = self._matcher.deep_copy(), []
        return other

    def allowed(self, remaining: int) -> Tensor:
        """The tokens that may come next, (vocabulary) bool, with `remaining` tokens to go, this one included."""
        ending = self.ending(remaining)
        if ending:
            allowed = torch.zeros(self._vocabulary, dtype=torch.bool)
            allowed[ending[0]] = True
            return allowed
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        allowed = torch.zeros(self._vocabulary, dtype=torch.bool)
        count = min(self._vocabulary, len(bits))
        allowed[:count] = torch.from_numpy(bits[:count].astype(bool))
        if self._matcher.is_accepting():
            allowed[self._ends] = True
        return allowed

    def ending(self, remaining: int) -> "Sequence[int]":
        """The tokens that must come now so that the reply is whole within `remaining`; none while there is time."""
        if not self._forced and remaining <= _LAST_TOKENS:
            self._forced = self._shortest_ending(remaining)
        return self._forced

    def take(self, token: int) -> None:
        """The token that was chosen."""
        if self._forced:
            self._forced.pop(0)
        self._matcher.consume_token(token)

    @property
    def complete(self) -> bool:
        """Whether the reply is whole."""
        return self._matcher.is_accepting()

    def _shortest_ending(self, remaining: int) -> list[int]:
        """Tokens that close the object, if it is high time to begin with them; else nothing."""
        best: list[int] | None = None
        for ending in _ENDINGS:
            tokens = self._close(ending)
            if tokens is not None and (best is None or len(tokens) < len(best)):
                best = tokens
        return best if best and len(best) >= remaining - _MARGIN else []

    def _close(self, ending: str) -> list[int] | None:
        """The tokens of `ending` and the brackets after it; None where they do not fit."""
        tokens: list[int] = self._tokens.tokenize_str(ending)
        if not _fits(self._matcher, tokens):  # much cheaper than a copy, and most do not fit
            return None
        matcher = self._matcher.deep_copy()
        matcher.consume_tokens(tokens)
        if _fits(matcher, self._tokens.tokenize_str("a")):  # inside a text, which brackets never end
            return None
        while not matcher.is_accepting():
            bracket = next((c for c in "}]" if _consumes(matcher, self._tokens.tokenize_str(c))), None)
            if bracket is None or len(tokens) > _LAST_TOKENS:
                return None
            tokens += self._tokens.tokenize_str(bracket)
        return tokens


def _fits(matcher: LLMatcher, tokens: list[int]) -> bool:
    return matcher.validate_tokens(tokens) == len(tokens)


def _consumes(matcher: LLMatcher, tokens: list[int]) -> bool:
    return _fits(matcher, tokens) and matcher.consume_tokens(tokens)


def json_tokens(tokenizer: "PreTrainedTokenizerBase", vocabulary: int, ends: "Sequence[int]") -> LLTokenizer:
    """llguidance's view of a tokenizer; made once per model (about a second for a large vocabulary)."""
    from llguidance.hf import from_tokenizer

    known = [token for token in ends if token < vocabulary]
    return from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=known or None)  # type: ignore[arg-type]
