"""`/v1/completions`: text in, more text out, whole or streamed."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import Field

from tunesmith.server.api import generation
from tunesmith.server.api.dependencies import CallerOf, ServiceOf
from tunesmith.server.api.generation import GenerationBody, Reply
from tunesmith.server.errors import RequestError
from tunesmith.server.language import Language
from tunesmith.server.replies import Engine, GenerationRequest, ScoreRequest
from tunesmith.server.sampling import TokenChoice

router = APIRouter(prefix="/v1/completions", tags=["Completions"])

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for text completions."""

MAX_PROMPTS = 64


class CompletionBody(GenerationBody):
    """A text completion request; a prompt is text or token ids, or a list of either."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=0, description="0 only with echo")] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = Field(None, description="the prompt before each reply, with its own logprobs; not streamed")


@router.post("", summary="Create a text completion")
async def create(request: Request, service: ServiceOf, caller: CallerOf, body: CompletionBody) -> Response:
    """Go on from each prompt."""
    wanted = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    body.check_stream_options()
    if body.echo and body.stream:
        raise RequestError("echo: not together with stream", code="unsupported_value", param="echo")
    if not wanted and not body.echo:
        raise RequestError("max_tokens: 0 is for echo only", code="invalid_value", param="max_tokens")
    engine, adapter = await generation.load_engine(service, caller, body.model)
    prompts = await run_in_threadpool(_prompts, engine.language, body.prompt)
    sampling = body.sampling(engine.language, logprobs=body.logprobs)
    asked = [
        GenerationRequest(
            prompt=prompt,
            max_tokens=generation.reply_room(engine.language, prompt, wanted, param="prompt"),
            sampling=sampling,
            adapter=adapter,
            choices=body.n or 1,
            stops=body.stops(),
        )
        for prompt in prompts
    ]
    if body.stream:
        return await generation.server_sent_events(_chunks(request, body, engine, asked))
    if wanted:
        replies = await generation.collect(engine, asked, request)
    else:
        replies = [Reply(finish="length") for each in asked for _ in range(each.choices)]
    tokens = sum(len(reply.tokens) for reply in replies)
    if body.echo:
        replies = await _echoed(engine, body, asked, replies)
    return JSONResponse(
        generation.envelope("cmpl-", "text_completion", body.model)
        | {
            "choices": [_choice(engine.language, index, reply, body) for index, reply in enumerate(replies)],
            "usage": generation.usage(asked, tokens),
        }
    )


async def _echoed(
    engine: Engine, body: CompletionBody, asked: Sequence[GenerationRequest], replies: Sequence[Reply]
) -> list[Reply]:
    """Each reply behind its prompt; the prompt's tokens are judged only where somebody wants to know."""
    if body.logprobs is None:
        read = [[TokenChoice(token) for token in each.prompt] for each in asked]
    else:
        wanted = [ScoreRequest(each.prompt, body.logprobs, each.adapter) for each in asked]
        read = await generation.score(engine, wanted)
    given = _given(body.prompt)
    prompts = [number for number, each in enumerate(asked) for _ in range(each.choices)]
    return [
        Reply(_text(engine.language, given[number]) + reply.text, [*read[number], *reply.tokens], reply.finish)
        for number, reply in zip(prompts, replies, strict=True)
    ]


def _prompts(language: Language, prompt: str | list[str] | list[int] | list[list[int]]) -> list[tuple[int, ...]]:
    given = _given(prompt)
    if not 1 <= len(given) <= MAX_PROMPTS:
        raise RequestError(f"prompt: give 1 to {MAX_PROMPTS} prompts", code="invalid_value", param="prompt")
    prompts = []
    for one in given:
        tokens = language.tokenizer.encode(one) if isinstance(one, str) else one
        if not tokens or min(tokens) < 0 or max(tokens) >= language.vocabulary:
            raise RequestError(
                f"prompt: give text, or token ids below {language.vocabulary}", code="invalid_value", param="prompt"
            )
        prompts.append(tuple(tokens))
    return prompts


def _given(prompt: str | list[str] | list[int] | list[list[int]]) -> Sequence[Any]:
    """The prompts one by one, each text or token ids."""
    return prompt if isinstance(prompt, list) and not _is_tokens(prompt) else [prompt]


def _text(language: Language, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else str(language.tokenizer.decode(prompt, skip_special_tokens=True))


def _is_tokens(prompt: list[Any]) -> bool:
    return bool(prompt) and all(isinstance(token, int) for token in prompt)


async def _chunks(
    request: Request, body: CompletionBody, engine: Engine, asked: Sequence[GenerationRequest]
) -> AsyncIterator[dict[str, Any]]:
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    head = generation.envelope("cmpl-", "text_completion", body.model)
    if with_usage:
        head["usage"] = None
    tokens = 0
    async for pieces in generation.pieces_of(engine, asked, whole=False, client=request):
        for piece in pieces:
            tokens += 1
            if piece.text or piece.finish or body.logprobs is not None:
                reply = Reply(piece.text, [piece.token], piece.finish)
                yield head | {"choices": [_choice(engine.language, piece.choice, reply, body)]}
    if with_usage:
        yield head | {"choices": [], "usage": generation.usage(asked, tokens)}


def _choice(language: Language, index: int, reply: Reply, body: CompletionBody) -> dict[str, Any]:
    tokens = reply.tokens
    if reply.finish == "stop" and tokens[-1].token in language.ends:  # it ended the text and is no part of it
        tokens = tokens[:-1]
    return {
        "index": index,
        "text": reply.text,
        "logprobs": None if body.logprobs is None else _logprobs(language, tokens),
        "finish_reason": reply.finish,
    }


def _logprobs(language: Language, tokens: Sequence[TokenChoice]) -> dict[str, Any]:
    spelled = [_spell(language, token.token) for token in tokens]
    offsets = [sum(len(text) for text in spelled[:index]) for index in range(len(spelled))]
    return {
        "tokens": spelled,
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            None if token.logprob is None else {_spell(language, other): value for other, value in token.top}
            for token in tokens
        ],
        "text_offset": offsets,
    }


def _spell(language: Language, token: int) -> str:
    return language.token_bytes(token).decode(errors="replace")
