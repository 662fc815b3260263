"""Requests that a client sends again because it had no answer: what the first one made, or deleted, is what they get.

OpenAI's SDK numbers its retries (`x-stainless-retry-count`) and sends nothing else that would tell them from a new
request, so a retry is taken for the latest one with the same owner and content. An `Idempotency-Key` says it outright.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

RETRY_SECONDS = 15 * 60
"""For how long a numbered retry may mean an earlier request: the SDK gives up on an answer after 10 minutes."""

KEY_SECONDS = 24 * 60 * 60
"""For how long a key is remembered."""

LONGEST_KEY = 255


@dataclass(frozen=True)
class Attempt:
    """One sending of a request of `owner`'s that makes or deletes something."""

    owner: str
    key: str | None = None
    is_retry: bool = False

    @property
    def remembered_seconds(self) -> float:
        """How old what it made may be; 0 for a request that is none but its own."""
        return KEY_SECONDS if self.key else RETRY_SECONDS if self.is_retry else 0.0

    def digest(self, *content: str) -> str:
        """The same for each sending of the same request."""
        parts = (self.owner, self.key or "", *content)
        return hashlib.sha256(b"".join(hashlib.sha256(part.encode()).digest() for part in parts)).hexdigest()


def attempt_of(owner: str, headers: Mapping[str, str]) -> Attempt:
    """What the headers of a request say of its being sent again."""
    retries = headers.get("x-stainless-retry-count", "0")
    return Attempt(owner, headers.get("idempotency-key", "")[:LONGEST_KEY] or None, retries not in ("", "0"))
