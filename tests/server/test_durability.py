"""kill -9 at any moment loses nothing: jobs go on from their checkpoint, with one trainer, through legal states."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob
from running_server import RunningServer, ticket_rows, wait_until

pytestmark = pytest.mark.slow

MARKS = re.compile(r"Step (\d+)/")


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of its own: these tests kill it."""
    running = RunningServer(tmp_path_factory.mktemp("fragile") / "data")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(fragile: RunningServer) -> openai.OpenAI:
    return fragile.client()


class LosesAnAnswer(openai.DefaultHttpxClient):
    """Loses the first answer, as a proxy does whose server dies under it (502); `meanwhile` happens then."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self._meanwhile = [meanwhile]

    def send(self, *args: Any, **kwargs: Any) -> Any:
        answer = super().send(*args, **kwargs)
        if self._meanwhile:
            self._meanwhile.pop()()
            answer.status_code = 502
        return answer


def start_job(client: openai.OpenAI, *, rows: int = 16, epochs: int = 40) -> FineTuningJob:
    """A job whose training takes some seconds, with nothing held out."""
    file = client.files.create(file=("tickets.jsonl", ticket_rows(rows)), purpose="fine-tune")
    return client.fine_tuning.jobs.create(
        model="embedded",
        training_file=file.id,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": 8}}},
    )


def steps(client: openai.OpenAI, job: FineTuningJob) -> list[int]:
    """The steps in the job's events, oldest first."""
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    return [int(found[1]) for message in reversed(messages) if (found := MARKS.match(message))]


def wait_for_status(client: openai.OpenAI, job: FineTuningJob, status: str) -> FineTuningJob:
    def arrived() -> FineTuningJob | None:
        now = client.fine_tuning.jobs.retrieve(job.id)
        assert now.status == status or now.status not in ("succeeded", "failed", "cancelled"), now
        return now if now.status == status else None

    return wait_until(arrived)  # type: ignore[no-any-return]


def test_a_killed_trainer_and_a_killed_server_lose_no_step(fragile: RunningServer, client: openai.OpenAI) -> None:
    job = start_job(client)
    wait_until(lambda: len(steps(client, job)) >= 12)
    waiting = start_job(client, epochs=1)
    fragile.kill_trainers()
    wait_until(fragile.trainers)
    reached = len(steps(client, job))
    wait_until(lambda: len(steps(client, job)) > reached + 4)
    fragile.kill()
    orphans = fragile.trainers()
    fragile.start()
    assert client.fine_tuning.jobs.retrieve(waiting.id).status == "queued"
    most = 0

    def ended() -> bool:
        nonlocal most
        most = max(most, len(fragile.trainers()))
        return client.fine_tuning.jobs.retrieve(job.id).status == "succeeded"

    wait_until(ended)
    assert len(orphans) == 1
    assert most <= 2  # that of the next job waits for the device
    assert steps(client, job) == list(range(1, 81))
    assert client.fine_tuning.jobs.retrieve(job.id).trained_tokens
    assert wait_for_status(client, waiting, "succeeded").fine_tuned_model


def test_a_job_whose_answer_was_lost_with_the_server_is_not_made_twice(
    fragile: RunningServer, client: openai.OpenAI
) -> None:
    file = client.files.create(file=("tickets.jsonl", ticket_rows(16)), purpose="fine-tune")
    before = [job.id for job in client.fine_tuning.jobs.list()]

    def restart() -> None:
        fragile.kill()
        fragile.start()

    losing = client.with_options(max_retries=1, http_client=LosesAnAnswer(restart))
    job = losing.fine_tuning.jobs.create(model="embedded", training_file=file.id)
    assert [job.id for job in client.fine_tuning.jobs.list()] == [job.id, *before]
    client.fine_tuning.jobs.cancel(job.id)


def test_a_paused_job_keeps_its_checkpoint_and_goes_on_from_it(client: openai.OpenAI) -> None:
    job = start_job(client)
    wait_until(lambda: len(steps(client, job)) >= 4)
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    wait_until(lambda: _quiet(client, job))
    kept = steps(client, job)
    assert 4 <= len(kept) < 80
    with pytest.raises(openai.ConflictError):
        client.fine_tuning.jobs.pause(job.id)
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    wait_for_status(client, job, "succeeded")
    assert steps(client, job) == list(range(1, 81))


def test_a_cancelled_job_stops_training_and_stays_cancelled(fragile: RunningServer, client: openai.OpenAI) -> None:
    job = start_job(client, epochs=50)
    wait_until(lambda: steps(client, job))
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    wait_until(lambda: not fragile.trainers())
    assert client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model is None
    with pytest.raises(openai.ConflictError):
        client.fine_tuning.jobs.resume(job.id)


def test_a_polite_shutdown_keeps_a_checkpoint_and_the_next_start_goes_on(
    fragile: RunningServer, client: openai.OpenAI
) -> None:
    job = start_job(client)
    wait_until(lambda: len(steps(client, job)) >= 3)
    assert fragile.stop() == 0
    assert fragile.trainers() == []
    (kept,) = _newest_checkpoints(fragile.data_dir, job)
    fragile.start()
    assert client.fine_tuning.jobs.retrieve(job.id).status == "running"
    wait_for_status(client, job, "succeeded")
    assert kept >= 3
    assert steps(client, job) == list(range(1, 81))


def _quiet(client: openai.OpenAI, job: FineTuningJob) -> bool:
    before = len(steps(client, job))
    time.sleep(2)
    return len(steps(client, job)) == before


def _newest_checkpoints(data_dir: Path, job: FineTuningJob) -> list[int]:
    folder = data_dir / "jobs" / job.id / "run" / "checkpoints"
    return [max(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))]
