"""API keys: hashed with a salt, revocable, refused without a hint."""

import pytest

from tunesmith.errors import SpecError
from tunesmith.server.auth import authenticate, create_key
from tunesmith.server.errors import RequestError
from tunesmith.server.store import Store


def refused(store: Store, header: str | None) -> RequestError:
    with pytest.raises(RequestError) as error:
        authenticate(store, header)
    return error.value


def test_a_key_opens_what_is_its_owners(store: Store) -> None:
    key = create_key(store, "alice")
    caller = authenticate(store, f"Bearer {key}")
    assert caller.owner == "alice"
    assert caller.key_id in key


def test_neither_the_key_nor_its_secret_is_kept(store: Store) -> None:
    key = create_key(store, "alice")
    secret = key.rpartition("-")[2]
    (record,) = store.list_keys()
    assert secret not in str(record)


def test_two_keys_of_an_owner_have_salts_of_their_own(store: Store) -> None:
    create_key(store, "alice")
    create_key(store, "alice")
    first, second = store.list_keys()
    assert first.salt != second.salt
    assert first.digest != second.digest


def test_a_revoked_key_is_refused(store: Store) -> None:
    key = create_key(store, "alice")
    assert store.revoke_key(store.list_keys()[0].id)
    assert refused(store, f"Bearer {key}").status == 401
    assert not store.revoke_key(store.list_keys()[0].id)


@pytest.mark.parametrize("change", [lambda k: k[:-1], lambda k: k + "x", lambda k: k.upper(), lambda k: "sk-ts-", str])
def test_a_wrong_key_is_refused_and_not_repeated(store: Store, change) -> None:  # type: ignore[no-untyped-def]
    key = create_key(store, "alice")
    wrong = change(key) if change is not str else "sk-ts-00000000-" + key.rpartition("-")[2]
    error = refused(store, f"Bearer {wrong}")
    assert (error.status, error.code) == (401, "invalid_api_key")
    assert wrong == "sk-ts-" or wrong not in str(error)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc"])
def test_a_request_without_a_key_is_told_how_to_send_one(store: Store, header: str | None) -> None:
    assert "Authorization: Bearer" in str(refused(store, header))


@pytest.mark.parametrize("owner", ["", "Alice", "a b", "../x", "a" * 33, "-a"])
def test_an_owner_must_be_usable_in_a_model_name(store: Store, owner: str) -> None:
    with pytest.raises(SpecError, match="lower-case"):
        create_key(store, owner)
