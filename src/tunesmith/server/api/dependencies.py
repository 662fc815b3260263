"""What the paths ask FastAPI for: the service, the caller, a page's cursor."""

from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer

from tunesmith.server.auth import Caller, authenticate
from tunesmith.server.errors import RequestError
from tunesmith.server.limits import Allowance
from tunesmith.server.repeats import Attempt, attempt_of
from tunesmith.server.service import Service


def service(request: Request) -> Service:
    """The server's parts."""
    found: Service = request.app.state.service
    return found


_BEARER = HTTPBearer(auto_error=False, description="An API key: `sk-ts-…`")
"""Only says in the OpenAPI document how to authenticate; `auth` does it."""


async def caller(request: Request, _documented: Annotated[object, Depends(_BEARER)]) -> Caller:
    """Who asks. Raises RequestError 401 or 429; a refused key is in the audit log."""
    parts = service(request)
    address = request.client.host if request.client else ""
    try:
        found = await run_in_threadpool(authenticate, parts.store, request.headers.get("authorization"))
    except RequestError:
        _refuse_if_beyond(parts.limiter.take(f"refused {address}"))  # guessing is limited too, and fills no log
        await run_in_threadpool(
            parts.audit.record, "auth.refused", request.url.path, address=address, request=request.state.request_id
        )
        raise
    allowance = parts.limiter.take(found.key_id)
    request.state.caller = found
    request.state.allowance = allowance
    _refuse_if_beyond(allowance)
    return found


def _refuse_if_beyond(allowance: Allowance) -> None:
    if not allowance.allowed:
        raise RequestError(
            f"Rate limit reached: {allowance.limit} requests a minute; try again in {allowance.retry_after:.1f} s",
            status=429,
            code="rate_limit_exceeded",
        )


def attempt(request: Request, who: Annotated[Caller, Depends(caller)]) -> Attempt:
    """Whether the request was sent before."""
    return attempt_of(who.owner, request.headers)


ServiceOf = Annotated[Service, Depends(service)]
CallerOf = Annotated[Caller, Depends(caller)]
AttemptOf = Annotated[Attempt, Depends(attempt)]
After = Annotated[str | None, Query(max_length=128)]


def done_before(service: Service, attempt: Attempt, digest: str) -> bool:
    """Whether an earlier sending of the request with this digest has done what it asks for."""
    return service.store.find_made(digest, within_seconds=attempt.remembered_seconds) is not None


def audit(request: Request, action: str, thing: str) -> None:
    """Record what the caller of `request` did to `thing`."""
    who: Caller = request.state.caller
    service(request).audit.record(
        action,
        thing,
        owner=who.owner,
        key=who.key_id,
        address=request.client.host if request.client else "",
        request=request.state.request_id,
    )
