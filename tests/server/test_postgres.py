"""The same server on PostgreSQL: runs where Debian's (or any) PostgreSQL is installed."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_server import RunningServer, ticket_rows, wait_until
from test_states import make_job

from tunesmith.server.settings import database_url
from tunesmith.server.store import Store

BINARIES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BINARIES is None and shutil.which("initdb") is None, reason="PostgreSQL is not installed"),
]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a database of its own, reached through a socket in a temporary folder."""
    binaries = BINARIES or Path(str(shutil.which("initdb"))).parent
    with tempfile.TemporaryDirectory(prefix="pg") as name:  # a socket's path must be short
        as_user: list[str] = []
        if os.geteuid() == 0:  # PostgreSQL refuses root
            as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            shutil.chown(name, "postgres", "postgres")
        data = f"{name}/data"
        run = [*as_user, str(binaries / "initdb"), "-D", data, "-A", "trust", "-U", "tuner", "--no-sync"]
        subprocess.run(run, check=True, capture_output=True, cwd=name)
        start = [*as_user, str(binaries / "postgres"), "-D", data, "-k", name, "-c", "listen_addresses=", "-F"]
        process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=name)
        try:
            wait_until(lambda: subprocess.run([str(binaries / "pg_isready"), "-q", "-h", name]).returncode == 0)
            yield f"postgresql://tuner@/postgres?host={name}"
        finally:
            process.send_signal(signal.SIGQUIT)  # at once, without a checkpoint
            process.wait(timeout=30)


def test_the_store_works_the_same(postgres: str, tmp_path: Path) -> None:
    store = Store(database_url(postgres, tmp_path))
    job = make_job(store)
    for _ in range(2):
        store.add_event(job.id, "Started", once="started")
        store.add_model("alice", "ft:x", base="embedded", job=job.id)
    created, *_, last = [event.message for event in store.events(job.id)]
    assert created == f"Created fine-tuning job: {job.id}"
    assert last == "Started"
    assert [event.message for event in store.events(job.id)].count("Started") == 1
    assert store.move_job(job.id, "queued")
    assert not store.move_job(job.id, "succeeded")
    assert [one.id for one in store.list_jobs("alice", after=None, limit=1, metadata={"team": "a"}).items] == [job.id]
    assert store.move_job(job.id, "cancelled")
    store.close()


def test_a_job_runs_to_its_end_across_a_killed_server(postgres: str, tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data", "--database", postgres)
    client = server.client()
    file = client.files.create(file=("t.jsonl", ticket_rows(8)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="embedded", training_file=file.id, hyperparameters={"n_epochs": 1})
    wait_until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "running")
    server.kill()
    server.start()
    wait_until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "succeeded")
    assert server.stop() == 0
