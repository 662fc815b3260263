"""The life of a job: only legal moves, and of two who try the same one, one succeeds."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tunesmith.server.records import JobRecord
from tunesmith.server.states import MOVES, STATUSES, TERMINAL, JobStatus, sources
from tunesmith.server.store import Store


def make_job(store: Store, owner: str = "alice", model: str = "embedded") -> JobRecord:
    return store.add_job(
        owner,
        model=model,
        training_file="file-1",
        validation_file=None,
        suffix=None,
        seed=0,
        method={"type": "supervised"},
        hyperparameters={},
        metadata={"team": "a"},
    )


def job_in(store: Store, status: JobStatus) -> JobRecord:
    job = make_job(store)
    path: dict[JobStatus, list[JobStatus]] = {
        "validating_files": [],
        "queued": ["queued"],
        "running": ["queued", "running"],
        "paused": ["queued", "paused"],
        "succeeded": ["queued", "running", "succeeded"],
        "failed": ["failed"],
        "cancelled": ["cancelled"],
    }
    for step in path[status]:
        assert store.move_job(job.id, step)
    return store.job(job.id)


@pytest.mark.parametrize("before", STATUSES)
@pytest.mark.parametrize("after", STATUSES)
def test_the_store_makes_exactly_the_legal_moves(store: Store, before: JobStatus, after: JobStatus) -> None:
    job = job_in(store, before)
    assert store.move_job(job.id, after) is (after in MOVES[before])
    assert store.job(job.id).status == (after if after in MOVES[before] else before)


def test_nothing_leaves_a_terminal_state() -> None:
    assert all(not MOVES[status] for status in TERMINAL)
    assert not any(TERMINAL & sources(status) for status in STATUSES)


def test_a_job_that_ends_gets_its_time(store: Store) -> None:
    assert job_in(store, "running").finished_at is None
    assert job_in(store, "cancelled").finished_at is not None


def test_of_many_who_make_the_same_move_one_succeeds(store: Store) -> None:
    job = job_in(store, "queued")
    with ThreadPoolExecutor(8) as pool:
        moved = list(pool.map(lambda _: store.move_job(job.id, "running"), range(16)))
    assert moved.count(True) == 1


def test_a_move_for_another_attempt_is_refused(store: Store) -> None:
    job = job_in(store, "queued")
    assert not store.move_job(job.id, "running", of_attempt=job.attempt + 1)
    assert store.move_job(job.id, "running", of_attempt=job.attempt)
