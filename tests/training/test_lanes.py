"""Micro-batches computed side by side: the same loss and gradients as one after another, and the same every time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_model, make_rows

from tunesmith.models.adapters import attach
from tunesmith.spec import AdapterSpec
from tunesmith.training import engine as engine_module
from tunesmith.training.batches import Row, forest_batches
from tunesmith.training.engine import Engine, StepOutcome
from tunesmith.training.lanes import Lanes, deal, possible_lanes
from tunesmith.training.objectives.sft import Sft

RELATIVE = 1e-6
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def one_step(lanes: int, monkeypatch: pytest.MonkeyPatch) -> tuple[StepOutcome, float, torch.Tensor]:
    monkeypatch.setattr(engine_module, "CPU_TOKENS", 200)
    monkeypatch.setattr(engine_module, "possible_lanes", lambda *_: lanes)
    model = attach(make_model(), AdapterSpec(r=4, alpha=8))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning)  # its step is the gradient itself
    engine = Engine(model, Sft(model), optimizer, device=CPU, bf16=False, max_grad_norm=1e9, seed=0)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in learning])
    outcome = engine.step(make_rows(16), step=0, learning_rate=1.0)
    after = torch.cat([parameter.detach().flatten() for parameter in learning])
    return outcome, engine.validate(make_rows(9, seed=3)).loss, before - after


def test_loss_and_gradients_are_those_of_one_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, held_out, gradients = one_step(1, monkeypatch)
    for lanes in (2, 3):
        other, other_held_out, found = one_step(lanes, monkeypatch)
        assert other.loss == pytest.approx(outcome.loss, rel=RELATIVE)
        assert other.grad_norm == pytest.approx(outcome.grad_norm, rel=RELATIVE)
        assert other_held_out == pytest.approx(held_out, rel=RELATIVE)
        assert (found - gradients).norm() <= 2e-6 * gradients.norm()  # the step itself rounds, in fp32


def test_a_step_is_bit_identical_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [one_step(2, monkeypatch) for _ in range(4)]
    assert all(torch.equal(gradients, runs[0][2]) and outcome.loss == runs[0][0].loss for outcome, _, gradients in runs)


def test_an_error_in_a_lane_is_the_callers() -> None:
    def work(part: int) -> None:
        if part == 1:
            raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        Lanes(2).run(work, [0, 1])


def test_a_lane_computes_on_one_core_and_leaves_the_caller_its_own() -> None:
    threads: list[int] = []
    Lanes(2).run(lambda _: threads.append(torch.get_num_threads()), [0, 1])
    assert threads == [1, 1]
    assert torch.get_num_threads() == 2


def test_lanes_are_for_adapters_on_a_processor() -> None:
    assert possible_lanes(attach(make_model(), AdapterSpec(r=1, targets=["q_proj"])), CPU) == 2
    assert possible_lanes(make_model(), CPU) == 1
    assert possible_lanes(attach(make_model(), AdapterSpec(r=1, targets=["q_proj"])), torch.device("cuda")) == 1


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 5))
def test_dealing_gives_everything_once_and_evenly(sizes: list[int], hands: int) -> None:
    dealt = deal(sizes, hands)
    assert sorted(index for hand in dealt for index in hand) == list(range(len(sizes)))
    sums = [sum(sizes[index] for index in hand) for hand in dealt]
    assert max(sums) - min(sums) <= max(sizes) or len(dealt) < hands


@given(st.lists(st.integers(2, 60), min_size=1, max_size=40), st.integers(30, 300), st.integers(1, 3))
def test_forests_hold_every_row_once_within_their_part_of_the_budget(
    lengths: list[int], budget: int, lanes: int
) -> None:
    rows = [Row(np.full(n, i + 1, dtype=np.int32), np.ones(n, dtype=np.bool_)) for i, n in enumerate(lengths)]
    batches = forest_batches(rows, budget, lanes)
    assert sum(batch.tokens for batch in batches) == sum(lengths)
    assert sorted(id(row) for batch in batches for row in batch.examples) == sorted(map(id, rows))
    assert all(batch.tokens <= budget // lanes or len(batch.examples) == 1 for batch in batches)


def test_rows_behind_one_prompt_are_cut_evenly_and_only_as_the_lanes_need() -> None:
    head = np.arange(3, 515, dtype=np.int32)
    numbers = np.random.default_rng(0)
    rows = [
        Row(np.concatenate([head, numbers.integers(600, 900, 96).astype(np.int32)]), np.ones(608, np.bool_))
        for _ in range(16)
    ]
    (whole,) = forest_batches(rows, 2048, 1)
    assert whole.input_ids.numel() == 512 + 16 * 96
    halves = forest_batches(rows, 2048, 2)
    assert [batch.input_ids.numel() for batch in halves] == [512 + 8 * 96] * 2
