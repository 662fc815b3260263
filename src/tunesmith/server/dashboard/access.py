"""Who may see a page, which forms are ours, and how an error looks to a person.

A page's errors are the same `TunesmithError`s that the API answers; here they become a page with the same sentence.
"""

import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Form, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse

from tunesmith.errors import TunesmithError
from tunesmith.server.auth import Caller
from tunesmith.server.dashboard.pages import page
from tunesmith.server.dashboard.session import form_token, is_form_token, read_session, server_secret
from tunesmith.server.errors import RequestError
from tunesmith.server.service import Service

HOME = "/dashboard"

SESSION_COOKIE = "tunesmith_session"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Visitor:
    """Somebody who is signed in; `token` goes into each form that they are shown."""

    caller: Caller
    token: str

    @property
    def owner(self) -> str:
        """Whose things they may touch."""
        return self.caller.owner


class SignInNeededError(RequestError):
    """There is no session, or it is over."""

    def __init__(self) -> None:
        super().__init__("Sign in with an API key first", status=401)


def service_of(request: Request) -> Service:
    """The server's parts."""
    found: Service = request.app.state.service
    return found


def visitor(request: Request) -> Visitor:
    """Who is signed in. Raises SignInNeededError, or RequestError 429."""
    service = service_of(request)
    secret = server_secret(service.settings.data_dir)
    cookie = request.cookies.get(SESSION_COOKIE, "")
    caller = read_session(secret, service.store, cookie)
    if caller is None:
        raise SignInNeededError
    request.state.caller = caller
    allowance = service.limiter.take(caller.key_id)
    request.state.allowance = allowance
    if not allowance.allowed:
        raise RequestError(
            f"This key is used too often: {allowance.limit} requests a minute; reload in {allowance.retry_after:.1f} s",
            status=429,
        )
    found = Visitor(caller, form_token(secret, cookie))
    request.state.visitor = found  # an error later on is shown to them, with the way on
    return found


def checked_form(
    request: Request, who: Annotated[Visitor, Depends(visitor)], token: Annotated[str, Form()] = ""
) -> None:
    """Let only a form in that this server showed in this session. Raises RequestError 403."""
    secret = server_secret(service_of(request).settings.data_dir)
    if not is_form_token(secret, request.cookies.get(SESSION_COOKIE, ""), token):
        raise RequestError("This form was made for another session; go back, reload the page and try again", status=403)


ServiceOf = Annotated[Service, Depends(service_of)]
VisitorOf = Annotated[Visitor, Depends(visitor)]
CheckedForm = Depends(checked_form)


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own handler, with its errors turned into pages."""
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except SignInNeededError:
                return _to_sign_in(request)
            except RequestValidationError as error:
                problem = error.errors()[0]
                field = problem["loc"][-1] if problem["loc"] else "the form"
                return _error_page(request, f"{field}: {problem['msg']}", 400)
            except HTTPException as error:
                return _error_page(request, error.detail, error.status_code)
            except RequestError as error:
                return _error_page(request, str(error), error.status)
            except TunesmithError as error:
                return _error_page(request, str(error), 400)
            except Exception:  # noqa: BLE001  # a bug of ours; a person is told so on a page, and the log has it
                _log.exception("%s %s failed", request.method, request.url.path)
                return _error_page(request, "The server had an error; see its log", 500)

        return answer


def _to_sign_in(request: Request) -> Response:
    """A page is replaced by the sign-in; a piece that htmx or a script asked for must not show it in its place."""
    here = request.headers.get("hx-current-url") or request.url.path
    path = here[here.find(HOME) :] if HOME in here else HOME
    address = f"{HOME}/sign-in?next={quote(path)}"
    if "hx-request" in request.headers:
        return Response(status_code=204, headers={"HX-Redirect": address})
    if request.method != "GET" or request.headers.get("accept") == "text/event-stream":
        return _error_page(request, "Your session is over; sign in again", 401)
    return RedirectResponse(address, 303)


def _error_page(request: Request, message: str, status: int) -> Response:
    if "hx-request" in request.headers:
        return page("error_part.html.j2", request, None, status=200, message=message)
    titles = {404: "Not found", 403: "Not allowed", 401: "Signed out", 413: "Too large", 429: "Too many requests"}
    title = titles.get(status, "That did not work")
    who = getattr(request.state, "visitor", None)
    return page("error.html.j2", request, who, status=status, title=title, message=message)
