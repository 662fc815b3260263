import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_rows

from tunesmith.training.batches import Row, collate, forest_batches, micro_batches, step_rows, steps_per_epoch


@given(st.lists(st.integers(2, 60), min_size=1, max_size=40), st.integers(10, 200))
def test_micro_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    rows = [Row(np.full(n, i, dtype=np.int32), np.ones(n, dtype=np.bool_)) for i, n in enumerate(lengths)]
    batches = micro_batches(rows, budget)
    assert sorted(int(ids[0]) for batch in batches for ids in batch.input_ids) == list(range(len(lengths)))
    assert all(batch.input_ids.numel() <= budget or len(batch.input_ids) == 1 for batch in batches)
    assert sum(batch.tokens for batch in batches) == sum(lengths)


@given(st.lists(st.integers(2, 60), min_size=1, max_size=40), st.integers(30, 300))
def test_forests_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    rows = [Row(np.full(n, i + 1, dtype=np.int32), np.ones(n, dtype=np.bool_)) for i, n in enumerate(lengths)]
    batches = forest_batches(rows, budget)
    assert sum(batch.tokens for batch in batches) == sum(lengths)
    assert sorted(id(row) for batch in batches for row in batch.examples) == sorted(map(id, rows))
    assert all(batch.tokens <= budget or len(batch.examples) == 1 for batch in batches)


def test_rows_behind_one_prompt_are_cut_evenly_and_only_as_they_must() -> None:
    head = np.arange(3, 515, dtype=np.int32)
    numbers = np.random.default_rng(0)
    rows = [
        Row(np.concatenate([head, numbers.integers(600, 900, 96).astype(np.int32)]), np.ones(608, np.bool_))
        for _ in range(16)
    ]
    (whole,) = forest_batches(rows, 2048)
    assert whole.input_ids.numel() == 512 + 16 * 96
    halves = forest_batches(rows, 2047)
    assert [batch.input_ids.numel() for batch in halves] == [512 + 8 * 96] * 2


@given(st.integers(1, 50), st.integers(1, 16), st.integers(0, 9))
def test_an_epoch_visits_every_row_once(rows: int, batch_size: int, seed: int) -> None:
    steps = steps_per_epoch(rows, batch_size)
    for epoch in range(2):
        order = [step_rows(epoch * steps + s, rows=rows, batch_size=batch_size, seed=seed) for s in range(steps)]
        assert sorted(np.concatenate(order)) == list(range(rows))


def test_epochs_are_ordered_differently() -> None:
    first, second = (step_rows(step, rows=30, batch_size=30, seed=0).tolist() for step in (0, 1))
    assert first != second


def test_targets_are_the_supervised_tokens_predicted_from_the_place_before() -> None:
    rows = make_rows(5)
    batch = collate(rows)
    expected = [token for row in rows for token in row.tokens[1:][row.supervised[1:]]]
    assert batch.targets.tolist() == expected
    assert (batch.input_ids.flatten()[batch.positions + 1] == batch.targets).all()
