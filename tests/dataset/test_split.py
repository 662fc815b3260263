import json
import random
from pathlib import Path

import pytest

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.split import infer_labels, split, split_file
from tunesmith.errors import DataError, SpecError

WORDS = [
    "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz", k=random.Random(-seed).randint(3, 9)))
    for seed in range(1, 400)
]


def row(question: str, answer: str = "fine", label: str | None = None) -> Conversation:
    return Conversation(messages=(Message("user", question), Message("assistant", answer)), label=label)


def questions(count: int, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=15)) for _ in range(count)]


def test_near_duplicate_questions_stay_on_one_side() -> None:
    rows = [row(variant) for question in questions(60) for variant in (question, question + " please", question + "!")]
    parts = split(rows, holdout=0.2, seed=0)
    assert {index // 3 for index in parts.train_rows}.isdisjoint(index // 3 for index in parts.holdout_rows)
    assert parts.kept_together == "near-duplicates"


def test_every_label_keeps_its_share() -> None:
    rows = [
        row(question, label="rare" if index % 10 == 0 else "common") for index, question in enumerate(questions(200))
    ]
    parts = split(rows, holdout=0.1, seed=0)
    assert [held.label for held in parts.holdout].count("rare") == 2
    assert [held.label for held in parts.holdout].count("common") == 18


def test_both_parts_together_are_the_source_in_its_order() -> None:
    rows = [row(question) for question in questions(50)]
    parts = split(rows, holdout=0.1, seed=3)
    assert sorted(parts.train_rows + parts.holdout_rows) == list(range(50))
    assert [rows[index] for index in parts.train_rows] == list(parts.train)
    assert [rows[index] for index in parts.holdout_rows] == list(parts.holdout)


def test_a_seed_always_gives_the_same_split_and_another_seed_another() -> None:
    rows = [row(question) for question in questions(100)]
    assert split(rows, 0.1, seed=1) == split(rows, 0.1, seed=1)
    assert split(rows, 0.1, seed=1).holdout_rows != split(rows, 0.1, seed=2).holdout_rows


def test_an_instruction_that_all_rows_share_does_not_make_them_one_cluster() -> None:
    instruction = "Classify the following customer ticket as billing, shipping or returns, with one word only.\n"
    rows = [row(instruction + question[:40]) for question in questions(40)]
    parts = split(rows, holdout=0.25, seed=0)
    assert parts.kept_together == "near-duplicates"
    assert len(parts.holdout) == 10


@pytest.mark.parametrize("count", [2, 3, 25])
def test_both_parts_have_rows_even_when_all_rows_are_the_same(count: int) -> None:
    parts = split([row("What is the capital of France?")] * count, holdout=0.1, seed=0)
    assert parts.train
    assert parts.holdout
    assert parts.kept_together == "nothing"


def test_short_outputs_that_repeat_are_labels() -> None:
    rows = [row("a", "Yes"), row("b", "yes"), row("c", "a long answer " * 9), row("d", "maybe")]
    assert infer_labels(rows) == ["yes", "yes", None, None]


def test_one_row_cannot_be_split() -> None:
    with pytest.raises(DataError, match="1 row"):
        split([row("Hello?")], holdout=0.1, seed=0)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_outside_zero_to_one_is_refused(share: float) -> None:
    with pytest.raises(SpecError, match="between 0 and 1"):
        split([row("a"), row("b")], holdout=share, seed=0)


def test_a_file_is_split_into_two_of_its_own_format(tmp_path: Path) -> None:
    lines = [json.dumps({"instruction": question, "output": "fine"}) for question in questions(20)]
    source = tmp_path / "tickets.jsonl"
    source.write_text("\n".join(lines))
    files = split_file(source, tmp_path / "parts", holdout=0.2, seed=0)
    assert (files.train.name, files.holdout.name) == ("tickets.train.jsonl", "tickets.holdout.jsonl")
    assert (files.train_rows, files.holdout_rows) == (16, 4)
    written = [json.loads(line) for file in (files.train, files.holdout) for line in file.read_text().splitlines()]
    assert sorted(row["instruction"] for row in written) == sorted(questions(20))


def test_a_file_of_several_formats_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "mixed.jsonl"
    source.write_text('{"instruction": "a", "output": "b"}\n{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(DataError, match="tunesmith data convert"):
        split_file(source, tmp_path, holdout=0.5)
