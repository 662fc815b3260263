"""What a client can get wrong, with the HTTP status, `code` and `param` that OpenAI's wire gives it.

The functions behind the HTTP layer raise these too, so a page of the dashboard can show the same sentence.
"""

from tunesmith.errors import TunesmithError

ERROR_TYPES = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}
"""HTTP status → the `type` of OpenAI's error object; everything else is an `invalid_request_error`."""


class RequestError(TunesmithError, ValueError):
    """A request that cannot be served as asked. `param` names the field, `code` is for machines."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    def body(self) -> dict[str, dict[str, str | None]]:
        """The error as OpenAI's wire has it."""
        kind = ERROR_TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def not_found(kind: str, name: str) -> RequestError:
    """There is none, or it is somebody else's: the answer is the same, so nobody can probe for what exists."""
    return RequestError(f"No such {kind}: {name}", status=404, code=f"{kind.replace(' ', '_')}_not_found", param="id")
