"""Fixtures for the server's tests."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from running_server import RunningServer

from tunesmith.server.generator import Generator
from tunesmith.server.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store on a fresh SQLite file."""
    made = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    yield made
    made.close()


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
