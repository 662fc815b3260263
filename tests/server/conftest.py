"""Fixtures for the server's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import openai
import pytest
from fastapi.testclient import TestClient
from running_server import RunningServer

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
