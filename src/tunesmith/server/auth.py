"""API keys: `sk-ts-ID-SECRET`. The id finds the row, the secret is kept only as a salted HMAC.

The secret is 256 random bits, so a slow password hash would add nothing but load; a salt per key and a comparison in
constant time are what is needed. Keys of the same owner share files, jobs and models, which is how one rotates a key.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from tunesmith.errors import SpecError
from tunesmith.server.errors import RequestError
from tunesmith.server.store import Store

PREFIX = "sk-ts-"

OWNER = r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?"
"""What an owner may be called: a regular expression."""


@dataclass(frozen=True)
class Caller:
    """Who is asking: the key's id and the owner whose things it may touch."""

    key_id: str
    owner: str


def create_key(store: Store, owner: str) -> str:
    """Make a key for `owner` and return it; it cannot be read back later. Raises SpecError for an unusable name."""
    if not re.fullmatch(OWNER, owner):
        raise SpecError(
            f"owner {owner}: use up to 32 lower-case letters, digits and hyphens (it becomes part of model names)"
        )
    key_id, secret, salt = secrets.token_hex(4), secrets.token_urlsafe(32), secrets.token_hex(16)
    store.add_key(owner, key_id=key_id, salt=salt, digest=_digest(salt, secret))
    return f"{PREFIX}{key_id}-{secret}"


def authenticate(store: Store, authorization: str | None) -> Caller:
    """The caller behind an `Authorization` header. Raises RequestError 401, which never repeats the key."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise _refused("No API key given: send `Authorization: Bearer sk-ts-…` (make one with `tunesmith keys create`)")
    key_id, _, secret = key.strip().removeprefix(PREFIX).partition("-")
    record = store.find_key(key_id)
    # A made-up salt keeps the time of a wrong id like that of a wrong secret.
    expected = _digest(record.salt if record else "none", secret)
    if record is None or not hmac.compare_digest(expected, record.digest):
        raise _refused("Incorrect API key provided: it is unknown or revoked")
    return Caller(record.id, record.owner)


def _digest(salt: str, secret: str) -> str:
    return hmac.new(salt.encode(), secret.encode(), hashlib.sha256).hexdigest()


def _refused(message: str) -> RequestError:
    return RequestError(message, status=401, code="invalid_api_key")
