"""What people prefer trains the next model: evaluated, judged, exported, and learned from with dpo."""

import json
from pathlib import Path

import pytest

import tunesmith
from tunesmith.assets import sample
from tunesmith.evaluation.human.duels import make_board
from tunesmith.evaluation.human.store import Store
from tunesmith.run_folder import RunFolder
from tunesmith.spec import parse_spec
from tunesmith.training.events import StartEvent, StepEvent, read_events


@pytest.mark.slow
def test_judgements_of_replies_become_pairs_that_dpo_learns(tmp_path: Path) -> None:
    lines = sample("style").read_text().splitlines(keepends=True)
    rows, unseen = tmp_path / "style.jsonl", tmp_path / "unseen.jsonl"
    rows.write_text("".join(lines[:40]))
    unseen.write_text("".join(lines[100:112]))
    sections = {"model": "embedded", "adapter": {"r": 8, "alpha": 16}}
    first = parse_spec(
        sections
        | {"data": {"train": str(rows), "holdout": 0.1}, "output": str(tmp_path / "first")}
        | {"training": {"steps": 10, "batch_size": 8, "learning_rate": 2e-3}}
    )
    run = tunesmith.train(first).run
    tunesmith.evaluate(run.root, data=unseen)

    board = make_board([run])
    store = Store(run.human)
    for duel in board.duels:
        store.record("ann", duel, "first" if duel.first == "tuned" else "second")
    pairs = tmp_path / "pairs.jsonl"
    results = tunesmith.compare(run.root, export=pairs, serve=False)
    exported = [json.loads(line) for line in pairs.read_text().splitlines()]
    assert len(exported) == len(board.duels) == results.duels > 4

    second = parse_spec(
        sections
        | {"data": {"train": str(pairs), "holdout": 0}, "objective": {"kind": "dpo"}}
        | {"training": {"steps": 6, "batch_size": 4, "learning_rate": 5e-4}, "output": str(tmp_path / "second")}
    )
    learned = tunesmith.train(second)
    events = read_events(RunFolder(tmp_path / "second").events)
    start = next(event for event in events if isinstance(event, StartEvent))
    steps = [event for event in events if isinstance(event, StepEvent)]
    assert start.train_rows == len(exported)
    assert steps[0].measures["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    assert steps[-1].measures["rewards/margins"] > 0.0
    assert learned.run.adapter.is_dir()
