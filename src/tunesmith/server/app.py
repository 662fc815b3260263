"""The FastAPI application: OpenAI's paths, health, metrics, and what wraps every request.

The wrapping is plain ASGI, so streams pass through it unbuffered: a request id, a limit on the body, security headers,
one structured log line, one observation for Prometheus.
"""

import logging
import time
import uuid
from importlib.metadata import version

from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.server.api import chat, completions, errors, files, graders, jobs, models, permissions, reference
from tunesmith.server.api.dependencies import ServiceOf
from tunesmith.server.dashboard.files import UPLOAD_PATH
from tunesmith.server.dashboard.router import router as dashboard
from tunesmith.server.errors import RequestError
from tunesmith.server.service import Service

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""For answers that are data; a page that needs more sets its own policy, which is then kept."""

ROUTERS = (
    files.router,
    jobs.router,
    permissions.router,
    graders.router,
    models.router,
    chat.router,
    completions.router,
    reference.router,
    dashboard,
)
"""Everything the server answers, beside health and metrics; a page is one more router here."""

UPLOAD_PATHS = frozenset({files.router.prefix, UPLOAD_PATH})
"""Where a body may be as long as an upload."""

UPLOAD_OVERHEAD_BYTES = 2**16
"""What multipart wraps around a file."""

_log = logging.getLogger("tunesmith.server.access")


def create_app(service: Service) -> FastAPI:
    """The application over `service`."""
    app = FastAPI(
        title="Tunesmith",
        version=version("tunesmith"),
        summary="OpenAI-compatible fine-tuning and inference on your own machine.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)

    @app.get("/healthz", tags=["Operation"], summary="Whether the server and its database answer")
    async def healthz(service: ServiceOf) -> Response:
        healthy = await run_in_threadpool(service.store.healthy)
        return JSONResponse({"status": "ok" if healthy else "database unreachable"}, 200 if healthy else 503)

    @app.get("/metrics", tags=["Operation"], summary="Metrics for Prometheus")
    def metrics(service: ServiceOf) -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    app.add_middleware(_Envelope, service=service)
    return app


class _Envelope:
    """What happens around every request."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = f"req_{uuid.uuid4().hex}"
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 500

        async def send_wrapped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(MutableHeaders(scope=message), state, request_id, started)
            await send(message)

        limit = self._body_limit(scope)
        try:
            if b"%00" in scope["query_string"] or "\0" in scope["path"]:
                await errors.error_response(_no_text())(scope, receive, send_wrapped)
            elif int(Headers(scope=scope).get("content-length") or 0) > limit:
                await errors.error_response(_too_large(limit))(scope, receive, send_wrapped)
            else:
                await self._app(scope, _limited(receive, limit), send_wrapped)
        finally:
            self._account(scope, status, time.perf_counter() - started, request_id)

    def _body_limit(self, scope: Scope) -> int:
        settings = self._service.settings
        upload = scope["method"] == "POST" and scope["path"].rstrip("/") in UPLOAD_PATHS
        return settings.max_upload_bytes + UPLOAD_OVERHEAD_BYTES if upload else settings.max_body_bytes

    def _account(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        self._service.metrics.observe(scope["method"], route, status, seconds)
        caller = scope["state"].get("caller")
        _log.info(
            "request",
            extra={
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "milliseconds": round(seconds * 1000, 1),
                "owner": caller.owner if caller else None,
                "request": request_id,
            },
        )


def _add_headers(headers: MutableHeaders, state: dict[str, object], request_id: str, started: float) -> None:
    from tunesmith.server.limits import Allowance

    headers["x-request-id"] = request_id
    headers["openai-processing-ms"] = str(int((time.perf_counter() - started) * 1000))
    allowance = state.get("allowance")
    if isinstance(allowance, Allowance):
        headers["x-ratelimit-limit-requests"] = str(allowance.limit)
        headers["x-ratelimit-remaining-requests"] = str(allowance.remaining)
        if not allowance.allowed:
            headers["retry-after"] = str(max(1, round(allowance.retry_after)))
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)


def _limited(receive: Receive, limit: int) -> Receive:
    """`receive`, refusing a body that turns out longer than `limit` although it did not say so."""
    size = 0

    async def wrapped() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise HTTPException(413, str(_too_large(limit)))  # the one kind that FastAPI lets through
        return message

    return wrapped


def _no_text() -> RequestError:
    """PostgreSQL has no character 0, so nothing that is looked for can have it."""
    return RequestError("The path or the query holds the character 0", code="invalid_value")


def _too_large(limit: int) -> RequestError:
    return RequestError(f"The request is larger than {limit:,} bytes", status=413, code="request_too_large")
