"""The official SDKs' exceptions as sentences that say what to do; both SDKs name and shape them alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tunesmith.errors import ProviderError, ProviderUnreachableError

_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "exceeded_quota", "insufficient_funds"})


@contextmanager
def sdk_errors(name: str, base_url: str, key_variable: str, api_error: type[Exception]) -> Iterator[None]:
    """Turn exceptions of the SDK's family `api_error` into ProviderError."""
    try:
        yield
    except api_error as error:
        raise _translated(error, name, base_url, key_variable) from error


def _translated(error: Exception, name: str, base_url: str, key_variable: str) -> ProviderError:
    status = getattr(error, "status_code", None)
    said, code = _said(error)
    if status is None:  # no answer: the connection failed or timed out
        return ProviderUnreachableError(f"{name}: cannot reach {base_url}: {said}; check the network and try again")
    if code in _QUOTA or status == 402:
        return ProviderError(
            f"{name}: the account's quota or credit is used up ({said}); add credit, then submit again"
        )
    match status:
        case 401:
            return ProviderError(f"{name}: refused the API key ({said}); set {key_variable} to a valid one")
        case 403:
            return ProviderError(f"{name}: the account may not do this ({said}); ask its owner for access")
        case 404:
            return ProviderError(f"{name}: not found ({said}); check the model, the job id and the base URL")
        case 429:
            return ProviderUnreachableError(f"{name}: too many requests ({said}); wait a little and try again")
        case int() if status >= 500:
            return ProviderUnreachableError(f"{name}: failed with status {status} ({said}); try again later")
    return ProviderError(f"{name}: refused the request ({said})")


def _said(error: Exception) -> tuple[str, str | None]:
    """What the provider said, in one line, and its error code."""
    body: Any = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(inner, dict):
        message, code, param = inner.get("message"), inner.get("code") or inner.get("type"), inner.get("param")
        where = f"{param}: " if param else ""
        if message:
            return where + " ".join(str(message).split()), None if code is None else str(code)
    return " ".join(str(error).split()) or type(error).__name__, None
