"""The data layer: pages that add up, things that belong to their owner, occasions that are told once."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError
from test_states import job_in, make_job

from tunesmith.server.api.pagination import cut_page
from tunesmith.server.errors import RequestError
from tunesmith.server.store import Store


def add_files(store: Store, owner: str, count: int) -> list[str]:
    return [
        store.add_file(owner, filename=f"{n}.jsonl", purpose="fine-tune", size=n, stored_as=f"{n}").id
        for n in range(count)
    ]


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10])
def test_the_pages_of_a_list_add_up_to_the_list(store: Store, limit: int, newest_first: bool) -> None:
    ids = add_files(store, "alice", 7)
    add_files(store, "bob", 2)
    seen: list[str] = []
    after, more = None, True
    while more:
        page = store.list_files("alice", purpose=None, after=after, limit=limit, newest_first=newest_first)
        seen += [record.id for record in page.items]
        after, more = seen[-1], page.has_more
    assert seen == (ids[::-1] if newest_first else ids)


@given(st.integers(0, 12), st.integers(1, 5))
def test_a_list_in_memory_pages_the_same_way(count: int, limit: int) -> None:
    items = [str(n) for n in range(count)]
    seen: list[str] = []
    more = True
    while more:
        page, more = cut_page(items, after=seen[-1] if seen else None, limit=limit, id_of=str)
        seen += page
    assert seen == items


def test_a_cursor_that_does_not_exist_is_refused(store: Store) -> None:
    (foreign,) = add_files(store, "bob", 1)
    for after in ("file-none", foreign):
        with pytest.raises(RequestError, match="no such id") as error:
            store.list_files("alice", purpose=None, after=after, limit=5)
        assert error.value.param == "after"


def test_what_is_somebody_elses_does_not_exist(store: Store) -> None:
    (file_id,) = add_files(store, "bob", 1)
    job = make_job(store, "bob")
    store.add_model("bob", "ft:x", base="embedded", job=job.id)
    for look in (lambda: store.get_file("alice", file_id), lambda: store.get_job("alice", job.id)):
        with pytest.raises(RequestError) as error:
            look()
        assert error.value.status == 404
    assert store.find_model("alice", "ft:x") is None
    assert not store.delete_model("alice", "ft:x")
    assert store.list_jobs("alice", after=None, limit=5).items == []


def test_a_file_that_a_job_still_needs_cannot_be_deleted(store: Store) -> None:
    store.add_file("alice", filename="a", purpose="fine-tune", size=1, stored_as="a", file_id="file-1")
    job = make_job(store)
    with pytest.raises(RequestError) as error:
        store.delete_file("alice", "file-1")
    assert error.value.status == 409
    store.move_job(job.id, "cancelled")
    store.delete_file("alice", "file-1")


def test_jobs_are_found_by_their_metadata(store: Store) -> None:
    job = make_job(store)
    assert [found.id for found in store.list_jobs("alice", after=None, limit=5, metadata={"team": "a"}).items] == [
        job.id
    ]
    assert store.list_jobs("alice", after=None, limit=5, metadata={"team": "b"}).items == []


def test_an_occasion_is_told_once(store: Store) -> None:
    job = make_job(store)
    for _ in range(2):
        store.add_event(job.id, "Started", once="started")
        store.add_event(job.id, "Hello")
    assert [event.message for event in store.events(job.id)[2:]] == ["Started", "Hello", "Hello"]


def test_a_job_and_its_first_events_are_there_together_or_not_at_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(store)
    assert [event.message for event in store.events(job.id)] == [
        f"Created fine-tuning job: {job.id}",
        "Validating training file: file-1",
    ]
    taken = store.events(job.id)[0].id
    monkeypatch.setattr("tunesmith.server.store.new_id", lambda prefix: taken if prefix == "ftevent-" else "ftjob-2")
    with pytest.raises(IntegrityError):
        make_job(store)
    assert [job.id] == [record.id for record in store.list_jobs("alice", after=None, limit=5).items]
    with pytest.raises(IntegrityError):
        store.move_job(job.id, "failed", "It failed")
    assert store.job(job.id).status == "validating_files"


def test_only_a_move_that_was_made_says_so(store: Store) -> None:
    job = job_in(store, "cancelled")
    assert not store.move_job(job.id, "failed", "It failed", level="error")
    assert "It failed" not in [event.message for event in store.events(job.id)]


def test_paused_and_ended_jobs_need_no_workflow(store: Store) -> None:
    wanted = [job_in(store, status).id for status in ("validating_files", "queued", "running")]
    for status in ("paused", "succeeded", "failed", "cancelled"):
        job_in(store, status)  # type: ignore[arg-type]
    assert [job.id for job in store.unfinished_jobs()] == wanted


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(name=st.text(min_size=1, max_size=50))
def test_any_file_name_is_only_a_name(store: Store, name: str) -> None:
    record = store.add_file("alice", filename=name, purpose="fine-tune", size=0, stored_as="x")
    assert store.get_file("alice", record.id).filename == name


def test_with_a_model_goes_whom_it_was_shared_with(store: Store) -> None:
    store.add_model("alice", "ft:a", base="embedded", job="ftjob-1")
    for model in ("ft:a", "ft:a:ckpt-step-1", "ft:ab"):
        store.add_permission("alice", model, "bob")
    assert store.delete_model("alice", "ft:a")
    shared = [store.who_shares(model, "bob") for model in ("ft:a", "ft:a:ckpt-step-1", "ft:ab", "a\0")]
    assert shared == [None, None, "alice", None]
