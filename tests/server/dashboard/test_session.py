"""Sessions: whose a cookie is, and when it no longer is."""

import stat
from pathlib import Path

import pytest

from tunesmith.server.auth import Caller, create_key
from tunesmith.server.dashboard.session import (
    SESSION_SECONDS,
    end_session,
    form_token,
    is_form_token,
    open_session,
    read_session,
    server_secret,
)
from tunesmith.server.store import Store

SECRET = b"s" * 32


@pytest.fixture
def key_id(store: Store) -> str:
    """The public part of a key of `tester`."""
    return create_key(store, "tester").split("-")[2]


def test_a_session_is_the_keys_owner(store: Store, key_id: str) -> None:
    assert read_session(SECRET, store, open_session(SECRET, key_id)) == Caller(key_id, "tester")


@pytest.mark.parametrize("cookie", ["", "...", "a.b.c.d", "\N{SNOWMAN}.1.2.3"])
def test_what_is_no_cookie_of_ours_is_nobody(store: Store, cookie: str) -> None:
    assert read_session(SECRET, store, cookie) is None


def test_no_part_of_a_cookie_can_be_changed(store: Store, key_id: str) -> None:
    cookie = open_session(SECRET, key_id)
    for place in range(len(cookie)):
        forged = cookie[:place] + ("0" if cookie[place] != "0" else "1") + cookie[place + 1 :]
        assert read_session(SECRET, store, forged) is None


def test_a_session_ends(store: Store, key_id: str) -> None:
    cookie = open_session(SECRET, key_id, now=1000)
    assert read_session(SECRET, store, cookie, now=1000 + SESSION_SECONDS) is not None
    assert read_session(SECRET, store, cookie, now=1001 + SESSION_SECONDS) is None


def test_a_session_that_was_left_is_over_wherever_its_cookie_is(store: Store, key_id: str) -> None:
    left, other = open_session(SECRET, key_id), open_session(SECRET, key_id)
    for cookie in (left, left, "forged.1.2.3"):
        end_session(SECRET, store, cookie)
    assert read_session(SECRET, store, left) is None
    assert read_session(SECRET, store, other) is not None


def test_revoking_a_key_ends_its_sessions(store: Store, key_id: str) -> None:
    cookie = open_session(SECRET, key_id)
    store.revoke_key(key_id)
    assert read_session(SECRET, store, cookie) is None


def test_a_forms_token_is_good_for_its_session_only() -> None:
    assert is_form_token(SECRET, "one", form_token(SECRET, "one"))
    assert not is_form_token(SECRET, "two", form_token(SECRET, "one"))
    assert not is_form_token(SECRET, "one", "")


def test_the_servers_secret_is_kept_and_nobody_elses(tmp_path: Path) -> None:
    secret = server_secret(tmp_path)
    path = tmp_path / "dashboard.secret"
    assert path.read_bytes() == secret
    assert len(secret) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
