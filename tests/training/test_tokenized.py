"""Tokenized rows are kept by content: the same as made anew, never stale, and safe to make twice at once."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from test_train import make_spec

from tunesmith.dataset.render import Renderer
from tunesmith.models.load import load_tokenizer
from tunesmith.settings import load_settings
from tunesmith.spec import RunSpec
from tunesmith.training import data as data_module
from tunesmith.training.data import TrainingData, prepare_data


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(load_tokenizer("embedded"))


def entries() -> list[Path]:
    return sorted((load_settings().cache / "tokenized").glob("*.safetensors"))


def same(one: TrainingData, other: TrainingData) -> bool:
    facts = [(data.holdout, data.truncated_rows, data.supervised_tokens_lost, data.digest) for data in (one, other)]
    kinds = [[type(example) for example in (*data.train, *data.validation)] for data in (one, other)]
    held = [
        [(row.tokens.tolist(), row.supervised.tolist()) for example in data.validation for row in example.rows]
        for data in (one, other)
    ]
    return facts[0] == facts[1] and kinds[0] == kinds[1] and held[0] == held[1]


def fail(*arguments: object, **options: object) -> None:
    raise AssertionError("rendered again")


@pytest.mark.parametrize("objective", [{"kind": "sft"}, {"kind": "dpo"}, {"kind": "dpo", "loss_type": "kto"}])
def test_a_second_run_takes_its_rows_from_mapped_memory(
    objective: dict[str, str],
    tickets: Path,
    pairs: Path,
    judged: Path,
    tmp_path: Path,
    renderer: Renderer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = {"sft": tickets, "dpo": pairs}[objective["kind"]] if len(objective) == 1 else judged
    spec = make_spec(rows, tmp_path / "run", objective=objective, training={"max_length": 96})
    monkeypatch.setattr("tunesmith.training.tokenized._key", lambda spec, renderer: None)
    plain = prepare_data(spec, renderer)
    monkeypatch.undo()
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    first = prepare_data(spec, renderer)
    monkeypatch.setattr(data_module, "read_rows", fail)
    second = prepare_data(spec, renderer)
    assert same(plain, first)
    assert same(first, second)
    if len(objective) == 2:
        assert [example.desirable for example in second.train] == [example.desirable for example in plain.train]  # type: ignore[attr-defined]
    assert isinstance(second.train[0].rows[0].tokens, np.ndarray)
    assert not second.train[0].rows[0].tokens.flags.owndata


def test_whatever_changes_the_tokens_makes_an_entry_of_its_own(
    tickets: Path, tmp_path: Path, renderer: Renderer
) -> None:
    def prepare(spec: RunSpec, by: Renderer = renderer) -> int:
        prepare_data(spec, by)
        return len(entries())

    assert prepare(make_spec(tickets, tmp_path / "run")) == 1
    assert prepare(make_spec(tickets, tmp_path / "elsewhere", training={"learning_rate": 1e-5})) == 1
    assert prepare(make_spec(tickets, tmp_path / "run", training={"max_length": 60})) == 2
    assert prepare(make_spec(tickets, tmp_path / "run", training={"seed": 1})) == 3
    assert prepare(make_spec(tickets, tmp_path / "run", data={"holdout": 0.2})) == 4
    told = load_tokenizer("embedded")
    told.chat_template = "!" + str(told.chat_template)
    assert prepare(make_spec(tickets, tmp_path / "run"), Renderer(told)) == 5
    lines = tickets.read_text().splitlines()
    lines[3] = json.dumps({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]})
    tickets.write_text("\n".join(lines))
    assert prepare(make_spec(tickets, tmp_path / "run")) == 6


def test_a_damaged_entry_is_made_again(tickets: Path, tmp_path: Path, renderer: Renderer) -> None:
    spec = make_spec(tickets, tmp_path / "run")
    first = prepare_data(spec, renderer)
    digest, rows = first.digest, len(first.train)
    entries()[0].unlink()
    entries_folder = load_settings().cache / "tokenized"
    del first
    prepare_data(spec, renderer)
    path = next(entries_folder.glob("*.safetensors"))
    path.unlink()
    path.write_bytes(b"{ and nothing after it")
    again = prepare_data(spec, renderer)
    assert (again.digest, len(again.train)) == (digest, rows)


def test_two_runs_may_make_the_same_entry_at_once(tickets: Path, tmp_path: Path, renderer: Renderer) -> None:
    spec = make_spec(tickets, tmp_path / "run")
    made: list[TrainingData] = []
    ready = threading.Barrier(2)

    def prepare() -> None:
        ready.wait()
        made.append(prepare_data(spec, renderer))

    threads = [threading.Thread(target=prepare) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same(*made)
    assert [path.name for path in entries()[0].parent.iterdir()] == [entries()[0].name]


def test_a_cache_that_cannot_be_written_costs_no_run(
    tickets: Path, tmp_path: Path, renderer: Renderer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "cache"
    blocked.write_text("a file where the folder should be")
    monkeypatch.setenv("TUNESMITH_CACHE", str(blocked))
    assert len(prepare_data(make_spec(tickets, tmp_path / "run"), renderer).train) > 30
    assert "tokenized is not cached" in caplog.text


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TUNESMITH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load_settings().cache == tmp_path / "tunesmith"
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "own"))
    assert load_settings().cache == tmp_path / "own"
