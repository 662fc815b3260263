"""Between the wire and an engine: what chat and completions share.

A reply that is not streamed crosses the threads once, at its end; a streamed one at each step. A client that hangs up
takes its rows out of the batch.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Annotated, Any, Literal

import msgspec
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import TunesmithError
from tunesmith.server.adapters import Adapter
from tunesmith.server.auth import Caller
from tunesmith.server.errors import RequestError
from tunesmith.server.language import Language
from tunesmith.server.numbers import whole_number
from tunesmith.server.replies import Engine, GenerationRequest, Piece, ScoreRequest
from tunesmith.server.sampling import Sampling, TokenChoice
from tunesmith.server.service import Service

DEFAULT_MAX_TOKENS = 4_096
"""Of a chat reply when the request does not say; the model's context still limits it."""

HANG_UP_SECONDS = 1.0
"""How often a request that waits for its whole reply looks whether the client is still there."""


class StreamOptions(BaseModel):
    """`stream_options`."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = Field(False, description="accepted, and without effect")


class GenerationBody(BaseModel):
    """The fields that chat and text completions have in common."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=512)
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = None
    seed: int | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="accepted, and without effect")

    def stops(self) -> tuple[str, ...]:
        """The stop sequences. Raises RequestError for more than four, as OpenAI does."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > 4:
            raise RequestError("stop: at most 4 sequences", code="invalid_value", param="stop")
        return tuple(stops)

    def check_stream_options(self) -> None:
        """Refuse options of a stream without one, which would have no effect. Raises RequestError."""
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options: needs stream: true", code="invalid_value", param="stream_options")

    def sampling(self, language: Language, *, logprobs: int | None) -> Sampling:
        """The sampling settings; without a seed, a fresh one."""
        bias = {}
        for key, value in (self.logit_bias or {}).items():
            token = whole_number(key)
            if token is None or token >= language.vocabulary:
                raise RequestError(f"logit_bias: {key:.20} is not a token id", code="invalid_value", param="logit_bias")
            bias[token] = value
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=bias,
            logprobs=logprobs,
        )


@dataclass
class Reply:
    """One choice, as far as it has come."""

    text: str = ""
    tokens: list[TokenChoice] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None


async def load_engine(service: Service, caller: Caller, model: str) -> tuple[Engine, Adapter | None]:
    """The engine and the adapter behind a model id. Raises RequestError 404 or ModelError."""
    served = await run_in_threadpool(service.catalogue.resolve, caller.owner, model)
    if service.backend is not None:
        remote = await service.backend.engine(served)
        if remote is not None:
            return remote, served.adapter
    return await run_in_threadpool(service.catalogue.generator, served), served.adapter


def reply_room(language: Language, prompt: Sequence[int], wanted: int, *, param: str) -> int:
    """How many tokens a reply may have. Raises RequestError when the prompt alone fills the context."""
    room = language.context - len(prompt)
    if room < min(wanted, 1):
        raise RequestError(
            f"This model's maximum context length is {language.context} tokens; your prompt has {len(prompt)}. "
            "Shorten it",
            code="context_length_exceeded",
            param=param,
        )
    return min(wanted, room)


async def pieces_of(
    engine: Engine, requests: Sequence[GenerationRequest], *, whole: bool, client: Request
) -> AsyncIterator[list[Piece]]:
    """The pieces of all `requests`, choices numbered through; with `whole`, those of a request together at its end."""
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[list[Piece] | Exception] = asyncio.Queue()
    tickets = []
    try:
        for index, request in enumerate(requests):
            first = index * request.choices
            tickets.append(engine.submit(request, _Mailbox(loop, inbox, request.choices, first, whole=whole)))
        left = sum(request.choices for request in requests)
        while left:
            try:
                pieces = await asyncio.wait_for(inbox.get(), HANG_UP_SECONDS)
            except TimeoutError:
                if await client.is_disconnected():
                    return
                continue
            if isinstance(pieces, Exception):
                raise pieces
            left -= sum(piece.finish is not None for piece in pieces)
            yield pieces
    finally:
        for ticket in tickets:
            ticket.cancel()


async def score(engine: Engine, requests: Sequence[ScoreRequest]) -> list[list[TokenChoice]]:
    """Each prompt's own tokens as the model foretells them, the first (which nothing does) without a probability."""
    loop = asyncio.get_running_loop()
    scored = []
    for request in requests:
        inbox: asyncio.Queue[list[Piece] | Exception] = asyncio.Queue()
        ticket = engine.submit(request, _Mailbox(loop, inbox, 1, 0, whole=False))
        try:
            pieces = await inbox.get()
        finally:
            ticket.cancel()
        if isinstance(pieces, Exception):
            raise pieces
        scored.append([TokenChoice(request.prompt[0]), *(piece.token for piece in pieces)])
    return scored


async def collect(engine: Engine, requests: Sequence[GenerationRequest], client: Request) -> list[Reply]:
    """The whole replies to `requests`, in order. Raises RequestError when the client has gone."""
    replies = [Reply() for request in requests for _ in range(request.choices)]
    async for pieces in pieces_of(engine, requests, whole=True, client=client):
        for piece in pieces:
            reply = replies[piece.choice]
            reply.text += piece.text
            reply.tokens.append(piece.token)
            reply.finish = piece.finish
    if any(reply.finish is None for reply in replies):
        raise _gone()
    return replies


async def server_sent_events(chunks: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    """`chunks` as server-sent events. The first is awaited here, so what fails at once has a proper status."""
    try:
        first = await anext(chunks)
    except StopAsyncIteration as error:
        raise _gone() from error

    async def lines() -> AsyncIterator[bytes]:
        yield _event(first)
        try:
            async for chunk in chunks:
                yield _event(chunk)
        except TunesmithError as error:
            told = error if isinstance(error, RequestError) else RequestError(str(error))
            yield _event(told.body())
        yield b"data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def usage(requests: Sequence[GenerationRequest], completion_tokens: int) -> dict[str, Any]:
    """The tokens read and generated."""
    prompt_tokens = sum(len(request.prompt) for request in requests)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def envelope(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """What every answer and chunk begins with."""
    return {
        "id": prefix + secrets.token_hex(12),
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": f"tunesmith-{version('tunesmith')}",
    }


class _Mailbox:
    """Carries pieces from the generator's thread to the event loop's (a `Deliver`)."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        inbox: "asyncio.Queue[list[Piece] | Exception]",
        choices: int,
        first: int,
        *,
        whole: bool,
    ) -> None:
        self._loop = loop
        self._inbox = inbox
        self._unfinished = choices
        self._first = first
        self._whole = whole
        self._kept: list[Piece] = []

    def __call__(self, news: list[Piece] | Exception) -> None:
        if isinstance(news, Exception):
            self._post(news)
            return
        if self._first:
            news = [Piece(self._first + piece.choice, piece.text, piece.token, piece.finish) for piece in news]
        if not self._whole:
            self._post(news)
            return
        self._kept += news
        self._unfinished -= sum(piece.finish is not None for piece in news)
        if not self._unfinished:
            self._post(self._kept)

    def _post(self, news: list[Piece] | Exception) -> None:
        try:
            self._loop.call_soon_threadsafe(self._inbox.put_nowait, news)
        except RuntimeError:  # the loop has closed: nobody waits any more
            return


def _gone() -> RequestError:
    """Nobody reads this but the log: 499 is what nginx writes down for it."""
    return RequestError("The client closed the connection", status=499, code="client_closed_request")


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"
