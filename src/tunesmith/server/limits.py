"""Rate limits: a token bucket per key, in memory. It refills evenly, so a burst is allowed and a flood is not."""

import threading
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Allowance:
    """The answer to one request: whether it may go on, what is left, and when to come back if not."""

    allowed: bool
    limit: int
    remaining: int
    retry_after: float


class RateLimiter:
    """At most `per_minute` requests a minute for each name, with as many at once."""

    def __init__(self, per_minute: int) -> None:
        self._limit = per_minute
        self._buckets: dict[str, tuple[float, float]] = {}  # name → tokens left, at which time
        self._lock = threading.Lock()

    def take(self, name: str, *, now: float | None = None) -> Allowance:
        """Count one request of `name`; `now` is in seconds."""
        now = time.monotonic() if now is None else now
        rate = self._limit / 60
        with self._lock:
            left, since = self._buckets.get(name, (float(self._limit), now))
            left = min(float(self._limit), left + (now - since) * rate)
            allowed = left >= 1
            left -= allowed
            self._buckets[name] = (left, now)
        return Allowance(allowed, self._limit, int(left), 0.0 if allowed else (1 - left) / rate)
