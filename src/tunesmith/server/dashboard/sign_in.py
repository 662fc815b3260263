"""Signing in with an API key, and out."""

import secrets
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from tunesmith.server.auth import authenticate
from tunesmith.server.dashboard.access import HOME, SESSION_COOKIE, CheckedForm, PageRoute, ServiceOf
from tunesmith.server.dashboard.pages import page
from tunesmith.server.dashboard.session import (
    SESSION_SECONDS,
    end_session,
    form_token,
    is_form_token,
    open_session,
    server_secret,
)
from tunesmith.server.errors import RequestError
from tunesmith.server.service import Service

router = APIRouter(prefix=HOME, route_class=PageRoute)

FORM_COOKIE = "tunesmith_sign_in"
"""Ties the sign-in form to the browser that was shown it, before there is a session."""


@router.get("/sign-in")
def form(request: Request, service: ServiceOf, next: str = HOME) -> Response:  # noqa: A002  # the address says it so
    """The form."""
    return _form(request, service, next, message=None)


@router.post("/sign-in")
def sign_in(
    request: Request,
    service: ServiceOf,
    key: Annotated[str, Form(max_length=256)] = "",
    token: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = HOME,  # noqa: A002
) -> Response:
    """Open a session for whoever shows a good key."""
    secret = server_secret(service.settings.data_dir)
    if not is_form_token(secret, request.cookies.get(FORM_COOKIE, ""), token):
        return _form(request, service, next, message="The form had grown old; try again")
    address = request.client.host if request.client else ""
    try:
        caller = authenticate(service.store, f"Bearer {key.strip()}")
    except RequestError:
        service.audit.record("auth.refused", request.url.path, address=address, request=request.state.request_id)
        told = "Paste an API key first" if not key.strip() else "That key is unknown or revoked"
        return _form(request, service, next, message=told)
    service.audit.record(
        "session.open", owner=caller.owner, key=caller.key_id, address=address, request=request.state.request_id
    )
    response = RedirectResponse(next if next.startswith(HOME) else HOME, 303)
    response.delete_cookie(FORM_COOKIE, path=HOME)
    _set_cookie(request, response, SESSION_COOKIE, open_session(secret, caller.key_id), SESSION_SECONDS)
    return response


@router.post("/sign-out", dependencies=[CheckedForm])
def sign_out(request: Request, service: ServiceOf) -> Response:
    """End the session, here and wherever its cookie may be."""
    cookie = request.cookies.get(SESSION_COOKIE, "")
    end_session(server_secret(service.settings.data_dir), service.store, cookie)
    response = RedirectResponse(f"{HOME}/sign-in", 303)
    response.delete_cookie(SESSION_COOKIE, path=HOME)
    return response


def _form(request: Request, service: Service, then: str, *, message: str | None) -> Response:
    cookie = secrets.token_hex(16)
    token = form_token(server_secret(service.settings.data_dir), cookie)
    response = page(
        "sign_in.html.j2",
        request,
        None,
        status=200 if message is None else 400,
        token=token,
        next=then,
        message=message,
    )
    _set_cookie(request, response, FORM_COOKIE, cookie, 3600)
    return response


def _set_cookie(request: Request, response: Response, name: str, value: str, seconds: int) -> None:
    response.set_cookie(
        name,
        value,
        max_age=seconds,
        path=HOME,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
