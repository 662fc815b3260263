"""What a run trains on and what it validates on."""

import json
from pathlib import Path

import pytest

from tunesmith.assets import sample
from tunesmith.dataset.read import load
from tunesmith.dataset.run_rows import read_rows
from tunesmith.errors import DataError
from tunesmith.spec import DataSpec


def test_replayed_rows_are_trained_on_and_never_held_out() -> None:
    tickets, general = str(sample("tickets")), str(sample("general"))
    plain = read_rows(DataSpec(train=tickets, holdout=0.1), seed=0)
    mixed = read_rows(DataSpec(train=tickets, holdout=0.1, replay=general), seed=0)
    assert list(mixed.train) == [*plain.train, *load(general)]
    assert mixed.validation == plain.validation == mixed.holdout
    assert len(plain.train) + len(plain.holdout) == 600


def test_an_eval_file_leaves_all_rows_to_training() -> None:
    rows = read_rows(DataSpec(train=str(sample("tickets")), eval=str(sample("retention"))), seed=0)
    assert (len(rows.train), len(rows.validation), len(rows.holdout)) == (600, 150, 0)


def test_a_broken_row_to_replay_is_named_by_its_line(tmp_path: Path) -> None:
    general = tmp_path / "general.jsonl"
    general.write_text(json.dumps({"prompt": "Hello", "completion": "Hi"}) + "\n{broken\n")
    with pytest.raises(DataError, match=r"general.jsonl:2"):
        read_rows(DataSpec(train=str(sample("tickets")), replay=str(general)), seed=0)


def test_the_rows_to_replay_ask_nothing_that_the_retention_suite_asks() -> None:
    retention, general = load(sample("retention")), load(sample("general"))
    assert {row.prompt[-1].content for row in retention}.isdisjoint(row.prompt[-1].content for row in general)
