"""The token bucket."""

from tunesmith.server.limits import RateLimiter


def test_a_burst_up_to_the_limit_is_allowed_and_the_next_is_told_when_to_return() -> None:
    limiter = RateLimiter(per_minute=3)
    assert [limiter.take("a", now=0).allowed for _ in range(4)] == [True, True, True, False]
    assert limiter.take("a", now=0).retry_after == 20


def test_it_refills_evenly_and_never_beyond_the_limit() -> None:
    limiter = RateLimiter(per_minute=3)
    for _ in range(3):
        limiter.take("a", now=0)
    assert limiter.take("a", now=20).allowed
    assert not limiter.take("a", now=20).allowed
    assert limiter.take("a", now=100_000).remaining == 2


def test_one_name_does_not_use_up_another() -> None:
    limiter = RateLimiter(per_minute=1)
    assert limiter.take("a", now=0).allowed
    assert limiter.take("b", now=0).allowed
