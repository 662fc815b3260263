"""Sessions: the cookie says whose it is and until when, signed with a secret of this server.

Only those that were left before their time are in the store. An API key is looked up again at each request, so revoking
it ends its sessions; the key itself is never in the cookie.
A form's token is a signature over the cookie that it was shown under, so another site cannot make one.
"""

import contextlib
import hashlib
import hmac
import secrets
import time
from functools import cache
from pathlib import Path

from tunesmith.server.auth import Caller
from tunesmith.server.store import Store

SESSION_SECONDS = 12 * 3600
"""A working day."""


def open_session(secret: bytes, key_id: str, *, now: float | None = None) -> str:
    """The cookie for somebody who has shown the API key `key_id`."""
    until = int((time.time() if now is None else now) + SESSION_SECONDS)
    claim = f"{key_id}.{until}.{secrets.token_hex(8)}"
    return f"{claim}.{_sign(secret, 'session', claim)}"


def read_session(secret: bytes, store: Store, cookie: str, *, now: float | None = None) -> Caller | None:
    """Whose session `cookie` is; None when it is forged, over or left, or its key was revoked."""
    claim = _read_claim(secret, cookie)
    if claim is None:
        return None
    key_id, until, session = claim
    if until < (time.time() if now is None else now) or store.is_session_ended(session):
        return None
    record = store.find_key(key_id)
    return None if record is None else Caller(record.id, record.owner)


def end_session(secret: bytes, store: Store, cookie: str) -> None:
    """Make `cookie` worthless, wherever it was copied to; a forged one is none of ours."""
    claim = _read_claim(secret, cookie)
    if claim is not None:
        store.end_session(claim[2], claim[1])


def form_token(secret: bytes, cookie: str) -> str:
    """What a form shown under `cookie` must send back."""
    return _sign(secret, "form", cookie)


def is_form_token(secret: bytes, cookie: str, token: str) -> bool:
    """Whether `token` was made for `cookie`."""
    return hmac.compare_digest(form_token(secret, cookie).encode(), token.encode())


@cache
def server_secret(data_dir: Path) -> bytes:
    """The secret of the server (or servers) on `data_dir`, made on first use and readable by its owner only."""
    path = data_dir / "dashboard.secret"
    if not path.is_file():
        temporary = data_dir / f".{path.name}.{secrets.token_hex(8)}"
        temporary.touch(mode=0o600)
        temporary.write_bytes(secrets.token_bytes(32))
        with contextlib.suppress(FileExistsError):  # of several servers that start at once, one makes it
            path.hardlink_to(temporary)
        temporary.unlink()
    return path.read_bytes()


def _read_claim(secret: bytes, cookie: str) -> tuple[str, int, str] | None:
    """Key id, end and name of the session; None when the cookie was not signed here."""
    claim, _, signature = cookie.rpartition(".")
    if not hmac.compare_digest(signature.encode(), _sign(secret, "session", claim).encode()):
        return None
    key_id, until, session = claim.split(".")
    return key_id, int(until), session


def _sign(secret: bytes, purpose: str, text: str) -> str:
    return hmac.new(secret, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()
