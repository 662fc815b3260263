"""`/v1/chat/completions`: messages in, a reply out, whole or streamed.

Messages are read and rendered by the code that reads and renders training rows, so a model is asked in the form in
which it was taught, and a wrong message is told with the same path.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
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
from tunesmith.server.json_guide import ANY_OBJECT
from tunesmith.server.sampling import TokenChoice

router = APIRouter(prefix="/v1/chat/completions", tags=["Chat"])


class JsonSchema(BaseModel):
    """`response_format.json_schema`; the schema is of an object, and is always followed."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=64)
    wanted: dict[str, Any] = Field(default_factory=lambda: dict(ANY_OBJECT), alias="schema")
    description: str | None = Field(None, description="accepted, and without effect")
    strict: bool | None = Field(None, description="accepted, and without effect: replies always follow the schema")


class ResponseFormat(BaseModel):
    """`response_format`."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def schema_of_reply(self) -> Mapping[str, Any] | None:
        """What the reply must be; None where it may be anything. Raises RequestError."""
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise RequestError(
                "response_format: json_schema is required with type json_schema, and only there",
                code="invalid_value",
                param="response_format.json_schema",
            )
        if self.json_schema is None:
            return None if self.type == "text" else ANY_OBJECT
        if self.json_schema.wanted.get("type") != "object":
            raise RequestError(
                'response_format: the schema must have "type": "object"',
                code="invalid_value",
                param="response_format.json_schema.schema",
            )
        return self.json_schema.wanted


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
    schema = None if body.response_format is None else body.response_format.schema_of_reply()
    generator, adapter = await generation.load_generator(service, caller, body.model)
    prompt = await run_in_threadpool(render_prompt, generator, conversation)
    guide = None if schema is None else await run_in_threadpool(generator.json_guide, schema)
    wanted = body.max_completion_tokens or body.max_tokens or DEFAULT_MAX_TOKENS
    asked = GenerationRequest(
        prompt=prompt,
        max_tokens=generation.reply_room(generator, prompt, wanted, param="messages"),
        sampling=body.sampling(generator, logprobs=(body.top_logprobs or 0) if body.logprobs else None),
        adapter=adapter,
        choices=body.n or 1,
        stops=body.stops(),
        guide=guide,
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
    try:
        msgspec.json.encode(read)
    except UnicodeEncodeError as error:  # JSON can spell half a character (`\ud800`); no tokenizer can
        raise RequestError("messages: not valid Unicode text", code="invalid_value", param="messages") from error
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
