import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from benchmarks.planted_rows import plant

import tunesmith
from tunesmith.dataset.read import Block
from tunesmith.errors import MissingDependencyError, ModelError, SpecError
from tunesmith.quality import on_ray


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')

    with pytest.raises(MissingDependencyError, match=r"tunesmith\[ray\]"):
        tunesmith.check([file], on="ray")


def test_an_address_without_a_cluster_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')

    with pytest.raises(SpecError, match="RAY_ADDRESS=nonsense: no Ray cluster"):
        tunesmith.check([file], on="ray")


def test_an_address_where_nothing_answers_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray would go on trying for minutes"))
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')

    with pytest.raises(SpecError, match=f"RAY_ADDRESS={address}: nothing answers there"):
        tunesmith.check([file], on="ray")


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """A cluster of two workers on this machine, as important as the test itself."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_a_ray_cluster_of_two_workers_gives_the_same_report(tmp_path: Path) -> None:
    files = plant(tmp_path, 3_000)
    with files.rows.open("a") as stream:  # what the packing between processes must carry too
        stream.write(json.dumps({"prompt": "a question", "completion": "an answer", "big": 10**30}) + "\n")
        stream.write(json.dumps({"prompt": "lone \ud800 surrogate", "completion": "an answer"}) + "\n")

    here = tunesmith.check([files.rows], eval_file=files.evaluation)
    there = tunesmith.check([files.rows], eval_file=files.evaluation, on="ray")

    assert here.rows == there.rows > 2_900
    assert msgspec.structs.replace(here, seconds=0) == msgspec.structs.replace(there, seconds=0)


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_blocks_are_spread_and_come_back_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "BLOCKS_PER_CPU", 6)  # two windows on two workers

    def where(observers: Any, start: int, block: Block) -> tuple[int, Block]:
        (tmp_path / str(os.getpid())).touch()
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:  # until the other works too
            time.sleep(0.05)
        return start, block

    blocks = [(number, Block("a.jsonl", 1, 0, [])) for number in range(24)]

    seen = list(on_ray.observe_on_ray(where, iter(blocks), []))

    assert seen == blocks
    assert len({int(worker.name) for worker in tmp_path.iterdir()} - {os.getpid()}) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_what_a_worker_says_must_be_mended_is_said_here() -> None:
    def refuse(observers: Any, start: int, block: Block) -> None:
        raise ModelError("no tokenizer there")

    with pytest.raises(ModelError, match=r"^no tokenizer there$"):
        list(on_ray.observe_on_ray(refuse, iter([(0, Block("a.jsonl", 1, 0, []))]), []))
