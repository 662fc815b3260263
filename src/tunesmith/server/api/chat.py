"""`/v1/chat/completions`: messages in, a reply out, whole or streamed."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.server.api import generation, tools
from tunesmith.server.api.dependencies import CallerOf, ServiceOf
from tunesmith.server.api.generation import DEFAULT_MAX_TOKENS, GenerationBody, Reply
from tunesmith.server.api.messages import read_conversation, render_prompt
from tunesmith.server.api.tools import ToolChoice, Tools, ToolUse
from tunesmith.server.call_reader import CallReader
from tunesmith.server.errors import RequestError
from tunesmith.server.guide import ANY_OBJECT, json_grammar
from tunesmith.server.language import Language
from tunesmith.server.replies import Engine, GenerationRequest, Piece
from tunesmith.server.sampling import TokenChoice

SCHEMA = "response_format.json_schema.schema"
"""The parameter of a schema."""

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
                param=SCHEMA,
            )
        return self.json_schema.wanted


class ChatBody(GenerationBody):
    """A chat request."""

    messages: list[dict[str, Any]]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = Field(None, description="text is all there is")
    metadata: dict[str, str] | None = Field(None, description="accepted, and without effect")
    store: bool | None = Field(None, description="accepted, and without effect: replies are not stored")
    service_tier: str | None = Field(None, description="accepted, and without effect")
    safety_identifier: str | None = Field(None, description="accepted, and without effect")
    prompt_cache_key: str | None = Field(None, description="accepted, and without effect")
    prompt_cache_retention: str | None = Field(None, description="accepted, and without effect")


@router.post("", summary="Create a chat completion")
async def create(request: Request, service: ServiceOf, caller: CallerOf, body: ChatBody) -> Response:
    """Reply to a conversation."""
    body.check_stream_options()
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise RequestError(
            "max_tokens: not together with max_completion_tokens, its newer name",
            code="invalid_value",
            param="max_tokens",
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("top_logprobs: needs logprobs: true", code="invalid_value", param="top_logprobs")
    schema = None if body.response_format is None else body.response_format.schema_of_reply()
    if schema is not None and body.tools and body.tool_choice != "none":
        raise RequestError(
            'response_format: not together with tools, but for tool_choice: "none"',
            code="unsupported_value",
            param="response_format",
        )
    conversation = read_conversation(body.messages, tools.offered(body.tools))
    engine, adapter = await generation.load_engine(service, caller, body.model)
    use = await run_in_threadpool(
        tools.tool_use, engine.language, body.tools, body.tool_choice, parallel=body.parallel_tool_calls
    )
    prompt = await run_in_threadpool(render_prompt, engine.language, conversation)
    guide = None if use is None else use.guide
    if schema is not None:
        guide = await run_in_threadpool(engine.language.guide, json_grammar(schema), param=SCHEMA)
    wanted = body.max_completion_tokens or body.max_tokens or DEFAULT_MAX_TOKENS
    asked = GenerationRequest(
        prompt=prompt,
        max_tokens=generation.reply_room(engine.language, prompt, wanted, param="messages"),
        sampling=body.sampling(engine.language, logprobs=(body.top_logprobs or 0) if body.logprobs else None),
        adapter=adapter,
        choices=body.n or 1,
        stops=body.stops(),
        guide=guide,
        shows_marks=use is not None,
    )
    if body.stream:
        return await generation.server_sent_events(_chunks(request, body, engine, asked, use))
    replies = await generation.collect(engine, [asked], request)
    return JSONResponse(
        generation.envelope("chatcmpl-", "chat.completion", body.model)
        | {
            "choices": [_choice(engine.language, index, reply, body, use) for index, reply in enumerate(replies)],
            "usage": generation.usage([asked], sum(len(reply.tokens) for reply in replies)),
        }
    )


async def _chunks(
    request: Request, body: ChatBody, engine: Engine, asked: GenerationRequest, use: ToolUse | None
) -> AsyncIterator[dict[str, Any]]:
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    head = generation.envelope("chatcmpl-", "chat.completion.chunk", body.model)
    if with_usage:
        head["usage"] = None
    begun: set[int] = set()
    readers = [] if use is None else [use.reader() for _ in range(asked.choices)]
    tokens = 0
    async for pieces in generation.pieces_of(engine, [asked], whole=False, client=request):
        for piece in pieces:
            tokens += 1
            if piece.choice not in begun:
                begun.add(piece.choice)
                content = "" if use is None else None
                yield head | {"choices": [_delta(piece.choice, {"role": "assistant", "content": content})]}
            logprobs = None
            if body.logprobs and piece.token.token not in engine.language.ends:
                logprobs = {"content": [_logprob(engine.language, piece.token)], "refusal": None}
            for delta in _said(piece, readers) or ([{} if use else {"content": ""}] if logprobs else []):
                yield head | {"choices": [_delta(piece.choice, delta, logprobs=logprobs)]}
                logprobs = None
            if piece.finish is not None:
                calls = readers[piece.choice].calls if readers else 0
                yield head | {"choices": [_delta(piece.choice, {}, _finish(piece.finish, calls))]}
    if with_usage:
        yield head | {"choices": [], "usage": generation.usage([asked], tokens)}


def _said(piece: Piece, readers: Sequence[CallReader]) -> list[dict[str, Any]]:
    """What a piece adds to its message."""
    if readers:
        return tools.deltas(readers[piece.choice].feed(piece.text, last=piece.finish is not None))
    return [{"content": piece.text}] if piece.text else []


def _finish(finish: str | None, calls: int) -> str | None:
    return "tool_calls" if calls and finish == "stop" else finish


def _choice(language: Language, index: int, reply: Reply, body: ChatBody, use: ToolUse | None) -> dict[str, Any]:
    logprobs = None
    if body.logprobs:
        content = [_logprob(language, token) for token in reply.tokens if token.token not in language.ends]
        logprobs = {"content": content, "refusal": None}
    message: dict[str, Any] = {"content": reply.text} if use is None else tools.message(use.reader(), reply.text)
    return {
        "index": index,
        "message": {"role": "assistant", "refusal": None} | message,
        "logprobs": logprobs,
        "finish_reason": _finish(reply.finish, len(message.get("tool_calls", ()))),
    }


def _delta(
    index: int, delta: dict[str, Any], finish: str | None = None, *, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _logprob(language: Language, choice: TokenChoice) -> dict[str, Any]:
    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        spelled = language.token_bytes(token)
        return {"token": spelled.decode(errors="replace"), "bytes": list(spelled), "logprob": logprob}

    return entry(choice.token, choice.logprob) | {"top_logprobs": [entry(token, value) for token, value in choice.top]}
