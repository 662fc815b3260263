"""`/v1/chat/completions`: messages in, a reply out, whole or streamed.

Messages are read and rendered by the code that reads and renders training rows, so a model is asked in the form in
which it was taught, and a wrong message is told with the same path.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.formats.fields import Problems, dotted
from tunesmith.dataset.formats.openai import read_messages
from tunesmith.server.api import generation
from tunesmith.server.api.dependencies import CallerOf, ServiceOf
from tunesmith.server.api.generation import DEFAULT_MAX_TOKENS, GenerationBody, Reply
from tunesmith.server.errors import RequestError
from tunesmith.server.generator import GenerationRequest, Generator
from tunesmith.server.sampling import TokenChoice

router = APIRouter(prefix="/v1/chat/completions", tags=["Chat"])


class ResponseFormat(BaseModel):
    """`response_format`."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object"]


class ChatBody(GenerationBody):
    """A chat request."""

    messages: list[dict[str, Any]]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    metadata: dict[str, str] | None = Field(None, description="accepted, and without effect")
    store: bool | None = Field(None, description="accepted, and without effect: replies are not stored")
    service_tier: str | None = Field(None, description="accepted, and without effect")
    safety_identifier: str | None = Field(None, description="accepted, and without effect")
    prompt_cache_key: str | None = Field(None, description="accepted, and without effect")


@router.post("", summary="Create a chat completion")
async def create(request: Request, service: ServiceOf, caller: CallerOf, body: ChatBody) -> Response:
    """Reply to a conversation."""
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("top_logprobs: needs logprobs: true", code="invalid_value", param="top_logprobs")
    conversation = read_conversation(body.messages)
    generator, adapter = await generation.load_generator(service, caller, body.model)
    prompt = await run_in_threadpool(render_prompt, generator, conversation)
    wanted = body.max_completion_tokens or body.max_tokens or DEFAULT_MAX_TOKENS
    asked = GenerationRequest(
        prompt=prompt,
        max_tokens=generation.reply_room(generator, prompt, wanted, param="messages"),
        sampling=body.sampling(generator, logprobs=(body.top_logprobs or 0) if body.logprobs else None),
        adapter=adapter,
        choices=body.n or 1,
        stops=body.stops(),
        json_object=body.response_format is not None and body.response_format.type == "json_object",
    )
    if body.stream:
        return await generation.server_sent_events(_chunks(request, body, generator, asked))
    replies = await generation.collect(generator, [asked], request)
    return JSONResponse(
        generation.envelope("chatcmpl-", "chat.completion", body.model)
        | {
            "choices": [_choice(generator, index, reply, body) for index, reply in enumerate(replies)],
            "usage": generation.usage([asked], sum(len(reply.tokens) for reply in replies)),
        }
    )


def read_conversation(messages: list[dict[str, Any]]) -> Conversation:
    """The messages as a conversation to go on from. Raises RequestError with the path of what is wrong."""
    problems: Problems = []
    read = read_messages({"messages": messages}, "messages", (), problems)
    if problems:
        problem = problems[0]
        raise RequestError(
            f"{dotted(problem.path)}: found {problem.found}; expected {problem.expected}",
            code="invalid_value",
            param=dotted(problem.path).removeprefix("$."),
        )
    return Conversation(messages=read, completion_start=len(read))


def render_prompt(generator: Generator, conversation: Conversation) -> tuple[int, ...]:
    """The tokens that ask the generator's model for the next turn."""
    from tunesmith.dataset.render import Renderer

    return tuple(Renderer(generator.tokenizer).prompt(conversation))


async def _chunks(
    request: Request, body: ChatBody, generator: Generator, asked: GenerationRequest
) -> AsyncIterator[dict[str, Any]]:
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    head = generation.envelope("chatcmpl-", "chat.completion.chunk", body.model)
    if with_usage:
        head["usage"] = None
    begun: set[int] = set()
    tokens = 0
    async for pieces in generation.pieces_of(generator, [asked], whole=False, client=request):
        for piece in pieces:
            tokens += 1
            if piece.choice not in begun:
                begun.add(piece.choice)
                yield head | {"choices": [_delta(piece.choice, {"role": "assistant", "content": ""})]}
            if piece.text or body.logprobs:
                delta = _delta(piece.choice, {"content": piece.text})
                if body.logprobs and piece.token.token not in generator.ends:
                    delta["logprobs"] = {"content": [_logprob(generator, piece.token)], "refusal": None}
                yield head | {"choices": [delta]}
            if piece.finish is not None:
                yield head | {"choices": [_delta(piece.choice, {}, piece.finish)]}
    if with_usage:
        yield head | {"choices": [], "usage": generation.usage([asked], tokens)}


def _choice(generator: Generator, index: int, reply: Reply, body: ChatBody) -> dict[str, Any]:
    logprobs = None
    if body.logprobs:
        content = [_logprob(generator, token) for token in reply.tokens if token.token not in generator.ends]
        logprobs = {"content": content, "refusal": None}
    return {
        "index": index,
        "message": {"role": "assistant", "content": reply.text, "refusal": None},
        "logprobs": logprobs,
        "finish_reason": reply.finish,
    }


def _delta(index: int, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def _logprob(generator: Generator, choice: TokenChoice) -> dict[str, Any]:
    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        spelled = generator.token_bytes(token)
        return {"token": spelled.decode(errors="replace"), "bytes": list(spelled), "logprob": logprob}

    return entry(choice.token, choice.logprob) | {"top_logprobs": [entry(token, value) for token, value in choice.top]}
