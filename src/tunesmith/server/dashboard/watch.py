"""A job or a run as it happens: server-sent events with the whole state of what changed.

So a lost connection loses nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from tunesmith.server import jobs
from tunesmith.server.dashboard.access import HOME, PageRoute, ServiceOf, Visitor, VisitorOf
from tunesmith.server.dashboard.job_view import regions
from tunesmith.server.dashboard.run_view import curves
from tunesmith.server.service import Service
from tunesmith.server.states import TERMINAL

router = APIRouter(prefix=HOME, route_class=PageRoute)

LOOK_SECONDS = 1.0
"""How often what is watched is looked at."""

QUIET_SECONDS = 15
"""After so long without news a comment is sent, so that proxies keep the connection."""

News: TypeAlias = tuple[dict[str, bytes], bool]
"""The state as JSON by the name of its event, and whether it is the last."""


@router.get("/jobs/{job_id}/watch")
async def watch(request: Request, service: ServiceOf, who: VisitorOf, job_id: str) -> Response:
    """`regions` (HTML by place), `curves` (the losses) whenever they change, and `end` when the job is over."""
    await run_in_threadpool(service.store.get_job, who.owner, job_id)
    return event_stream(request, lambda: _look(service, who, job_id))


def event_stream(request: Request, look: Callable[[], News]) -> StreamingResponse:
    """What `look` sees, as an event whenever it has changed, until it is the last."""
    return StreamingResponse(
        _events(request, look), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _events(request: Request, look: Callable[[], News]) -> AsyncIterator[bytes]:
    shown: dict[str, bytes] = {}
    quiet = 0.0
    while not await request.is_disconnected():
        news, over = await run_in_threadpool(look)
        fresh = {name: body for name, body in news.items() if shown.get(name) != body}
        shown |= fresh
        for name, body in fresh.items():
            yield b"event: " + name.encode() + b"\ndata: " + body + b"\n\n"
        if over:
            yield b"event: end\ndata: {}\n\n"
            return
        quiet = 0.0 if fresh else quiet + LOOK_SECONDS
        if quiet >= QUIET_SECONDS:
            quiet = 0.0
            yield b": still here\n\n"
        await asyncio.sleep(LOOK_SECONDS)


def _look(service: Service, who: Visitor, job_id: str) -> News:
    job = service.store.get_job(who.owner, job_id)
    news = {
        "curves": msgspec.json.encode(curves(jobs.job_folder(service, job).run)),
        "regions": msgspec.json.encode(regions(service, who, job)),
    }
    return news, job.status in TERMINAL
