"""Chat with two models beside each other; the page keeps the conversations, the server only replies."""

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Form, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.read import read
from tunesmith.errors import TunesmithError
from tunesmith.server import files
from tunesmith.server.api import generation
from tunesmith.server.api.messages import read_conversation, render_prompt
from tunesmith.server.dashboard.access import HOME, CheckedForm, PageRoute, ServiceOf, Visitor, VisitorOf
from tunesmith.server.dashboard.pages import HEADERS, page
from tunesmith.server.errors import RequestError
from tunesmith.server.replies import Engine, GenerationRequest
from tunesmith.server.sampling import Sampling
from tunesmith.server.service import Service

router = APIRouter(prefix=f"{HOME}/playground", route_class=PageRoute)

DEFAULT_REPLY_TOKENS = 256


@router.get("")
def show(request: Request, service: ServiceOf, who: VisitorOf, left: str = "", right: str = "") -> Response:
    """The page; without a choice, the newest tuned model stands beside its base."""
    tuned = service.store.list_models(who.owner)
    models = [entry.id for entry in service.catalogue.entries(who.owner)]
    newest = tuned[-1] if tuned else None
    left = left if left in models else newest.base if newest and newest.base in models else models[0]
    right = right if right in models else newest.id if newest else models[-1]
    return page(
        "playground.html.j2",
        request,
        who,
        bases=[model for model in models if not model.startswith("ft:")],
        tuned=[record.id for record in reversed(tuned)],
        sides=(("left", left), ("right", right)),
        system=_taught_system(service, who, right),
        tokens=DEFAULT_REPLY_TOKENS,
    )


@router.post("/reply", dependencies=[CheckedForm])
async def reply(
    request: Request,
    service: ServiceOf,
    who: VisitorOf,
    model: Annotated[str, Form(max_length=512)],
    messages: Annotated[str, Form()],
    temperature: Annotated[float, Form(ge=0, le=2)] = 0.0,
    max_tokens: Annotated[int, Form(ge=1, le=4096)] = DEFAULT_REPLY_TOKENS,
) -> Response:
    """The next turn, a JSON object a line: `{"text"}` as it comes, then `{"tokens", "seconds"}` or `{"error"}`."""
    try:
        turns = _messages(messages)
        conversation = read_conversation(turns)
        engine, adapter = await generation.load_engine(service, who.caller, model)
        prompt = await run_in_threadpool(render_prompt, engine.language, conversation)
        asked = GenerationRequest(
            prompt=prompt,
            max_tokens=generation.reply_room(engine.language, prompt, max_tokens, param="messages"),
            sampling=Sampling(temperature=temperature, seed=time.time_ns() % 2**63),
            adapter=adapter,
        )
    except TunesmithError as error:
        return Response(_line({"error": str(error)}), media_type="application/x-ndjson", headers=HEADERS)
    return StreamingResponse(_lines(engine, asked, request), media_type="application/x-ndjson", headers=HEADERS)


def _taught_system(service: Service, who: Visitor, model: str) -> str:
    """The system prompt that a tuned model was taught with: asked otherwise it may not show what it learned."""
    record = service.store.find_model(who.owner, model)
    if record is None:
        return ""
    try:
        file = service.store.get_file(who.owner, service.store.get_job(who.owner, record.job).training_file)
    except RequestError:  # deleted since
        return ""
    rows = (row for row in read(files.path_of(service.settings, file)) if isinstance(row, Conversation))
    first = next(rows, None)
    said = [message for message in first.messages if message.role == "system"] if first is not None else []
    return said[0].content if said else ""


async def _lines(engine: Engine, asked: GenerationRequest, request: Request) -> AsyncIterator[bytes]:
    started, tokens, finish = time.perf_counter(), 0, None
    try:
        async for pieces in generation.pieces_of(engine, [asked], whole=False, client=request):
            for piece in pieces:
                tokens += 1
                finish = piece.finish
                if piece.text:
                    yield _line({"text": piece.text})
    except TunesmithError as error:
        yield _line({"error": str(error)})
        return
    yield _line({"tokens": tokens, "seconds": round(time.perf_counter() - started, 2), "finish": finish})


def _messages(text: str) -> list[dict[str, Any]]:
    try:
        return msgspec.json.decode(text, type=list[dict[str, Any]])
    except msgspec.DecodeError as error:
        raise RequestError(f"messages: not a JSON list of messages: {error}") from error


def _line(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"
