"""The same run spec against Tunesmith's own server: submitted, trained, watched and evaluated over the wire."""

import json
from pathlib import Path

import pytest

from tunesmith import api
from tunesmith.assets import sample
from tunesmith.run_folder import RunFolder
from tunesmith.spec import parse_spec

pytest.importorskip("openai")


@pytest.mark.slow
def test_a_spec_runs_at_our_own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    from tests.server.running_server import RunningServer

    rows = sample("tickets").read_bytes().splitlines(keepends=True)[:60]
    (tmp_path / "tickets.jsonl").write_bytes(b"".join(rows))
    spec = parse_spec(
        {
            "model": "embedded",
            "data": {"train": str(tmp_path / "tickets.jsonl"), "holdout": 0.2},
            "training": {"epochs": 1, "batch_size": 16},
            "output": str(tmp_path / "run"),
        }
    )
    server = RunningServer(tmp_path / "data")
    try:
        monkeypatch.setenv("TUNESMITH_API_KEY", server.key("tester"))
        job = api.submit_job(spec, provider=f"{server.url}/v1", confirm=lambda offer: True)
        assert job is not None
        ended, evaluation = api.watch_job(spec.output, poll_seconds=0.5)
    finally:
        server.stop()
    run = RunFolder(tmp_path / "run")
    events = [json.loads(line) for line in run.events.read_text().splitlines()]
    assert ended.status == "succeeded", ended
    assert evaluation is not None
    assert evaluation.rows == len(run.holdout.read_text().splitlines())
    assert evaluation.metrics
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert steps == sorted(set(steps))
    assert steps
    assert events[-1]["event"] == "end"
