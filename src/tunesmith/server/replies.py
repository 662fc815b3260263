"""What is asked of an engine and what it answers: requests, pieces of replies, and the text that tokens add up to."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from tunesmith.errors import ModelError
from tunesmith.server.adapters import Adapter
from tunesmith.server.errors import RequestError
from tunesmith.server.guide import Guide
from tunesmith.server.language import Language
from tunesmith.server.sampling import Sampling, TokenChoice
from tunesmith.server.text import TextStream

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt and how to go on from it; `choices` replies are made, the i-th with seed + i.

    `shows_marks` leaves the special tokens that mark calls of tools in the text.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    adapter: Adapter | None = None
    choices: int = 1
    stops: tuple[str, ...] = ()
    guide: Guide | None = None
    shows_marks: bool = False


@dataclass(frozen=True)
class ScoreRequest:
    """A prompt whose own tokens are to be judged, each with the `logprobs` likeliest in its place."""

    prompt: tuple[int, ...]
    logprobs: int
    adapter: Adapter | None = None
    choices: int = 0  # it takes no row of the batch, and no room in its caches
    max_tokens: int = 0


@dataclass(frozen=True)
class Piece:
    """What one step added to one reply; the last one says why it ended."""

    choice: int
    text: str
    token: TokenChoice
    finish: Literal["stop", "length"] | None


Deliver = Callable[[list[Piece] | Exception], None]
"""Told of each step's pieces of a request."""


class Ticket(Protocol):
    """A request in flight, to be given up by whoever asked."""

    def cancel(self) -> object:
        """Stop generating; what is returned says nothing."""


class Engine(Protocol):
    """What generates for a base model."""

    @property
    def language(self) -> Language:
        """The model's tokens."""

    def submit(self, request: GenerationRequest | ScoreRequest, deliver: Deliver) -> Ticket:
        """Begin a request, on the event loop's thread. Raises RequestError when there is no room for it.

        A score is delivered at once, as a piece for each token of the prompt but the first, which nothing foretells.
        """


class Transcript:
    """One reply as its tokens come: its text, what it may say next, and whether it has ended."""

    def __init__(self, request: GenerationRequest, choice: int, language: Language) -> None:
        self._choice = choice
        self._remaining = request.max_tokens
        self._text = TextStream(language.tokenizer, request.stops, language.call_marks if request.shows_marks else {})
        self._ends = language.ends
        self.guide = None if request.guide is None else request.guide.fresh()

    @property
    def remaining(self) -> int:
        """How many tokens may still come."""
        return self._remaining

    def ending(self) -> tuple[int, ...]:
        """The tokens that must come now, whatever the model would say; none while it may go on."""
        return () if self.guide is None else tuple(self.guide.ending(self._remaining))

    def take(self, token: TokenChoice) -> Piece:
        """Add the token that was chosen."""
        self._remaining -= 1
        if token.token in self._ends:
            return Piece(self._choice, self._text.flush(), token, "stop")
        if self.guide is not None:
            self.guide.take(token.token)
        text = self._text.add(token.token)
        if self._text.stopped:
            return Piece(self._choice, text, token, "stop")
        if self.guide is not None and self.guide.complete:
            return Piece(self._choice, text + self._text.flush(), token, "stop")
        if self._remaining == 0:
            return Piece(self._choice, text + self._text.flush(), token, "length")
        return Piece(self._choice, text, token, None)


def told(error: Exception) -> Exception:
    """What a client is told of `error`; what it could not know of is in the log."""
    if isinstance(error, RequestError | ModelError):
        return error
    _log.error("generation failed", exc_info=error)
    return RequestError("Generation failed; see the server's log", status=500)
