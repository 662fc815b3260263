"""Every error leaves as OpenAI's error object with the status that makes its SDK raise the fitting exception."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tunesmith.errors import TunesmithError
from tunesmith.server.errors import RequestError

_log = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Answer all errors of `app` in OpenAI's form."""
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(TunesmithError, _tunesmith_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


def error_response(error: RequestError) -> JSONResponse:
    """The answer to a request that cannot be served."""
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 409:
        headers["x-should-retry"] = "false"  # the SDK would try a conflict again; ours do not go away by waiting
    return JSONResponse(error.body(), error.status, headers)


def _request_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)  # noqa: S101  # registered for this type
    return error_response(error)


def _tunesmith_error(_request: Request, error: Exception) -> JSONResponse:
    return error_response(RequestError(str(error)))


def _validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # registered for this type
    problems: Sequence[Any] = error.errors()
    problem = problems[0]
    param = _param(problem, error.body)
    match problem["type"]:
        case "missing" if param is None:
            message, code = "The body is missing: send a JSON object", "invalid_json"
        case "missing":
            message, code = f"Missing required parameter: '{param}'", "missing_required_parameter"
        case "extra_forbidden":
            message, code = f"Unrecognized request argument supplied: {param}", "unknown_parameter"
        case "json_invalid":
            message, code, param = "The body is not valid JSON", "invalid_json", None
        case _:  # a value that may be of several kinds has one problem for each of them
            told = dict.fromkeys(each["msg"] for each in problems if _param(each, error.body) == param)
            message, code = f"Invalid value for '{param or 'body'}': {'; or: '.join(told)}", "invalid_value"
    return error_response(RequestError(message, code=code, param=param))


def _param(problem: Any, body: Any) -> str | None:
    """The field of a validation problem, as in `messages[0].role`; None for the whole body.

    pydantic puts the kinds it has tried between the names (`prompt.list[str].0`): what is not in the body is left out.
    """
    place, *keys = problem["loc"] or ("body",)
    if place != "body" or not isinstance(body, Mapping):
        return ".".join(str(key) for key in keys) or None
    param, value = "", body
    for number, key in enumerate(keys, start=1):
        if isinstance(key, int) and isinstance(value, list) and key < len(value):
            param, value = f"{param}[{key}]", value[key]
        elif isinstance(value, Mapping) and key in value:
            param, value = f"{param}.{key}", value[key]
        elif problem["type"] == "missing" and number == len(keys):
            param = f"{param}.{key}"
    return param.removeprefix(".") or None


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for this type
    messages = {404: f"Unknown path: {request.url.path}", 405: f"{request.method} is not allowed here"}
    response = error_response(RequestError(messages.get(error.status_code, error.detail), status=error.status_code))
    response.headers.update(error.headers or {})
    return response


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(RequestError("The server had an error; see its log", status=500, code="internal_error"))
