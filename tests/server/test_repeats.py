"""A request that is sent again, because its answer was lost, makes nothing twice."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient
from running_server import ticket_rows

from tunesmith.server import repeats
from tunesmith.server.auth import create_key
from tunesmith.server.store import Store

RETRY = {"x-stainless-retry-count": "1"}


class NoRunner:
    """Takes jobs and does nothing with them."""

    def submit(self, job: object) -> None: ...


@pytest.fixture
def client(make_app: Callable[..., TestClient]) -> TestClient:
    made = make_app()
    app = cast(Any, made.app)
    app.state.service = replace(app.state.service, runner=NoRunner())
    return made


def upload(client: TestClient, headers: dict[str, str] | None = None, rows: bytes = ticket_rows(2)) -> str:
    answer = client.post("/v1/files", headers=headers, data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", rows)})
    return str(answer.json()["id"])


def create(client: TestClient, file: str, headers: dict[str, str] | None = None, **changes: Any) -> str:
    body = {"model": "embedded", "training_file": file} | changes
    answer = client.post("/v1/fine_tuning/jobs", headers=headers, json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def test_a_retry_gets_the_job_that_is_there_and_a_new_request_a_new_one(client: TestClient) -> None:
    file = upload(client)
    first = create(client, file)
    assert create(client, file, RETRY) == first
    second = create(client, file)
    assert second != first
    assert create(client, file, RETRY) == second
    assert create(client, file, RETRY, suffix="other") not in (first, second)
    events = client.get(f"/v1/fine_tuning/jobs/{first}/events").json()["data"]
    assert len(events) == 2


def test_the_same_key_means_the_same_job_however_many_send_it_at_once(client: TestClient) -> None:
    file = upload(client)
    headers = {"Idempotency-Key": "nightly"}
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: create(client, file, headers), range(8)))
    assert len(made) == 1
    assert create(client, file, {"Idempotency-Key": "other"}) not in made


def test_somebody_else_s_same_request_is_another(client: TestClient, store: Store) -> None:
    file = upload(client)
    other = {"authorization": f"Bearer {create_key(store, 'other')}"}
    assert upload(client, RETRY | other) != file


def test_a_retry_does_not_mean_a_job_that_has_failed_since(client: TestClient, store: Store) -> None:
    file = upload(client)
    first = create(client, file)
    store.move_job(first, "failed")
    assert create(client, file, RETRY) != first


def test_what_is_long_ago_is_not_repeated(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    file = upload(client)
    first = create(client, file)
    monkeypatch.setattr(repeats, "RETRY_SECONDS", 0)
    assert create(client, file, RETRY) != first


def test_an_upload_that_is_sent_again_is_the_same_file_until_it_is_deleted(client: TestClient) -> None:
    first = upload(client)
    assert upload(client, RETRY) == first
    assert upload(client, RETRY, rows=ticket_rows(3)) != first
    assert upload(client) != first
    assert client.delete(f"/v1/files/{upload(client, RETRY)}").json()["deleted"]
    assert len(client.get("/v1/files").json()["data"]) == 2
    service = cast(Any, client.app).state.service
    assert len(list(service.settings.files_dir.iterdir())) == 2
    upload(client, RETRY)
    assert len(client.get("/v1/files").json()["data"]) == 3


@pytest.mark.parametrize(("verb", "states"), [("cancel", []), ("pause", ["queued"]), ("resume", ["queued", "paused"])])
def test_a_move_that_is_sent_again_is_not_refused_for_being_done(
    client: TestClient, store: Store, verb: str, states: list[Any]
) -> None:
    job = create(client, upload(client))
    for state in states:
        assert store.move_job(job, state)
    path = f"/v1/fine_tuning/jobs/{job}/{verb}"
    first = client.post(path).json()
    assert client.post(path, headers=RETRY).json() == first
    assert client.post(path).status_code == 409


def test_a_delete_that_is_sent_again_is_not_refused_for_what_it_has_done(client: TestClient, store: Store) -> None:
    file = upload(client)
    store.add_model("tester", "ft:x", base="embedded", job="ftjob-1")
    store.add_model("tester", "ft:y", base="embedded", job="ftjob-2")
    shared = store.add_permission("tester", "ft:y", "friend").id
    for path in (f"files/{file}", "models/ft:x", f"fine_tuning/checkpoints/ft:y/permissions/{shared}"):
        assert client.delete(f"/v1/{path}", headers=RETRY).status_code == 200
        assert client.delete(f"/v1/{path}").status_code == 404
        assert client.delete(f"/v1/{path}", headers=RETRY).json()["deleted"]
    other = {"authorization": f"Bearer {create_key(store, 'other')}"}
    assert client.delete(f"/v1/files/{file}", headers=RETRY | other).status_code == 404
    assert client.delete("/v1/files/file-none", headers=RETRY).status_code == 404
