"""Fixtures for the server's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import openai
import pytest
from fastapi.testclient import TestClient
from openai.types.fine_tuning import FineTuningJob
from running_server import RunningServer, ended, ticket_rows, wait_until

from tunesmith.server.app import create_app
from tunesmith.server.auth import create_key
from tunesmith.server.catalogue import Catalogue
from tunesmith.server.generator import Generator
from tunesmith.server.service import assemble
from tunesmith.server.settings import ServerSettings, database_url
from tunesmith.server.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store on a fresh SQLite file."""
    made = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    yield made
    made.close()


@pytest.fixture
def make_app(tmp_path: Path, store: Store) -> Iterator[Callable[..., TestClient]]:
    """Makes the application with some settings of its own; the client already has a key."""

    def make(**changes: Any) -> TestClient:
        settings = ServerSettings(data_dir=tmp_path, database=database_url(None, tmp_path), **changes)
        settings.files_dir.mkdir()
        catalogue = Catalogue(settings, store)
        no_runner = cast(Any, None)  # no job is made
        service = assemble(settings, store, catalogue, no_runner)
        key = create_key(store, "tester")
        return TestClient(create_app(service), headers={"authorization": f"Bearer {key}"})

    yield make


@pytest.fixture(scope="session")
def generator() -> Iterator[Generator]:
    """The embedded model, generating."""
    import torch

    from tunesmith.models.load import load_model, load_tokenizer

    made = Generator(load_model("embedded", dtype=torch.float32), load_tokenizer("embedded"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server process for all tests that only talk to it."""
    running = RunningServer(tmp_path_factory.mktemp("server") / "data", "--model", "gpt-4o-mini=embedded")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="session")
def client(server: RunningServer) -> openai.OpenAI:
    """The official client of that server."""
    return server.client()


@pytest.fixture(scope="session")
def job(client: openai.OpenAI) -> FineTuningJob:
    """A small job, run to its end."""
    training = client.files.create(file=("train.jsonl", ticket_rows(24)), purpose="fine-tune")
    validation = client.files.create(file=("valid.jsonl", ticket_rows(30)[len(ticket_rows(24)) :]), purpose="fine-tune")
    made = client.fine_tuning.jobs.create(
        model="gpt-4o-mini",
        training_file=training.id,
        validation_file=validation.id,
        suffix="desk",
        seed=3,
        metadata={"team": "support"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}}},
    )
    assert made.status in ("validating_files", "queued")
    return wait_until(lambda: ended(client, made.id))  # type: ignore[no-any-return]
