"""A run spec over two dozen rows, and the two providers on loopback."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.providers.wire import Wire, openai_answer, serve, together_answer

from tunesmith.providers import openai
from tunesmith.providers import together as together_module
from tunesmith.spec import RunSpec, parse_spec

pytest.importorskip("openai")
pytest.importorskip("together")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Tickets to label, 30 of them, all different enough to be no near-duplicates."""
    path = tmp_path / "tickets.jsonl"
    words = ["parcel", "invoice", "password", "refund", "screen", "keyboard", "billing", "battery", "garden", "window"]
    lines = []
    for index in range(30):
        text = f"{words[index % 10]} {words[(index * 7 + 3) % 10]} number {index * 7919} {words[(index // 3) % 10]} ?"
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": ["yes", "no"][index % 2]}]
        lines.append(json.dumps({"messages": turns}) + "\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture
def make_spec(rows: Path, tmp_path: Path) -> Callable[..., RunSpec]:
    """A function that makes a spec: `make_spec(model=..., **sections)`."""

    def make(model: str = "gpt-4o-mini-2024-07-18", **sections: Any) -> RunSpec:
        values = {
            "model": model,
            "data": {"train": str(rows), "holdout": 0.2},
            "output": str(tmp_path / "runs" / "Tickets A"),
        }
        return parse_spec({**values, **sections})

    return make


@pytest.fixture
def openai_wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """OpenAI's wire on loopback; its URL is the provider."""
    monkeypatch.setattr(openai, "RETRIES", 0)
    monkeypatch.setenv("TUNESMITH_API_KEY", "secret-key")
    with serve(Wire(script=["running", "succeeded"]), openai_answer) as wire:
        yield wire


@pytest.fixture
def together_wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """Together's wire on loopback, as the provider `together`."""
    monkeypatch.setattr(together_module, "RETRIES", 0)
    monkeypatch.setenv("TOGETHER_API_KEY", "secret-key")
    monkeypatch.setenv("TOGETHER_ALLOW_INSECURE_UPLOAD_REDIRECTS", "1")
    with serve(Wire(script=["running", "completed"]), together_answer) as wire:
        monkeypatch.setattr("tunesmith.providers.find.TOGETHER_URL", wire.url)
        yield wire
