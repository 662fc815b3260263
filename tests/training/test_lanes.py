"""Stretches of a forest computed side by side: the same loss and gradients as at once, and the same every time."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_model, make_rows

from tunesmith.models.adapters import attach
from tunesmith.spec import AdapterSpec
from tunesmith.training import engine as engine_module
from tunesmith.training import stretches, token_loss
from tunesmith.training.batches import Row
from tunesmith.training.engine import Engine, StepOutcome, make_optimizer
from tunesmith.training.lanes import Lanes, deal, possible_lanes
from tunesmith.training.objectives.sft import Sft
from tunesmith.training.shared_prefix import plant

RELATIVE = 1e-6
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def alike_rows() -> list[Row]:
    """Sixteen rows, half of which begin with the same thirty tokens: lanes need one another's keys and values."""
    head = np.random.default_rng(1).integers(3, 96, 30).astype(np.int32)
    rows = make_rows(16)
    behind = [
        Row(np.concatenate([head, row.tokens]), np.concatenate([np.zeros(30, np.bool_), row.supervised]))
        for row in rows[:8]
    ]
    return behind + rows[8:]


def one_step(lanes: int, monkeypatch: pytest.MonkeyPatch) -> tuple[StepOutcome, float, torch.Tensor]:
    monkeypatch.setattr(engine_module, "CPU_TOKENS", 200)
    monkeypatch.setattr(token_loss, "possible_lanes", lambda _: lanes)
    monkeypatch.setattr(stretches, "LEAST_TOKENS", 20)
    model = attach(make_model(), AdapterSpec(r=4, alpha=8))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning)  # its step is the gradient itself
    engine = Engine(model, Sft(model), optimizer, device=CPU, bf16=False, max_grad_norm=1e9, seed=0)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in learning])
    outcome = engine.step(alike_rows(), step=0, learning_rate=1.0)
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


def test_the_optimizer_makes_the_same_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused one reads gradients as they lie in memory, so a transposed one would be another."""
    monkeypatch.setattr(stretches, "LEAST_TOKENS", 20)
    trained = []
    for lanes in (1, 2):
        monkeypatch.setattr(token_loss, "possible_lanes", lambda _, lanes=lanes: lanes)
        model = attach(make_model(), AdapterSpec(r=4, alpha=8))
        optimizer = make_optimizer(model, weight_decay=0.0)
        engine = Engine(model, Sft(model), optimizer, device=CPU, bf16=False, max_grad_norm=1.0, seed=0)
        losses = [engine.step(alike_rows(), step=step, learning_rate=1e-2).loss for step in range(5)]
        assert losses[-1] < losses[0]
        trained.append(losses)
    assert trained[1] == pytest.approx(trained[0], rel=1e-5)


def test_a_step_is_bit_identical_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [one_step(2, monkeypatch) for _ in range(4)]
    assert all(torch.equal(gradients, runs[0][2]) and outcome.loss == runs[0][0].loss for outcome, _, gradients in runs)


def test_an_error_in_a_lane_is_the_callers() -> None:
    def work(part: int) -> None:
        if part == 1:
            raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        Lanes(2).run(work, [0, 1])


def test_a_part_is_always_the_same_lanes() -> None:
    lanes, threads = Lanes(2), {0: set(), 1: set()}
    for _ in range(20):  # so short that one lane could do both
        lanes.run(lambda part: threads[part].add(threading.get_ident()), [0, 1])
    assert [len(those) for those in threads.values()] == [1, 1]
    assert threads[0] != threads[1]


def test_a_lane_computes_on_one_core_and_leaves_the_caller_its_own() -> None:
    threads: list[int] = []
    Lanes(2).run(lambda _: threads.append(torch.get_num_threads()), [0, 1])
    assert threads == [1, 1]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("failing", [0, 1])
def test_a_lane_that_fails_is_not_waited_for(failing: int) -> None:
    parts = stretches.stretches(plant([np.arange(300, dtype=np.int32)]), 2)

    def work(stretch: stretches.Stretch) -> None:
        with stretch.attended():
            if stretch.lane == failing:
                raise torch.OutOfMemoryError
            stretch.seen(torch.zeros(1, 1, 1))
            stretch.own(torch.zeros(1, 300, 1))

    with pytest.raises(torch.OutOfMemoryError):
        Lanes(2).run(work, parts)


def test_a_lane_ahead_of_the_others_does_not_wait_for_them() -> None:
    first, last = stretches.stretches(plant([np.arange(300, dtype=np.int32)]), 2)
    for layer in range(3):
        assert first.seen(torch.full((1, 150, 1), float(layer)))[0].shape == (1, 150, 1)
    for layer in range(3):
        (states,) = last.seen(torch.full((1, 150, 1), 10.0 + layer))
        assert states[0, [0, -1], 0].tolist() == [layer, 10 + layer]
        assert last.own(torch.full((1, 300, 1), 2.0))[0].shape[1] == 300 - first.end
    for _ in range(3):
        assert first.own(torch.ones(1, first.end, 1))[0].unique().tolist() == [3]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=9), st.integers(1, 4))
def test_stretches_are_the_whole_forest_and_cost_the_same(lengths: list[int], lanes: int) -> None:
    forest = plant([np.full(length, number + 1, np.int32) for number, length in enumerate(lengths)])
    parts = stretches.stretches(forest, lanes)
    assert [0, *(part.end for part in parts)] == [*(part.start for part in parts), sum(lengths)]
    costs = [(1 + part.position_ids / stretches.ATTENDED_TOKENS).sum() for part in parts]
    assert len(parts) == 1 or max(costs) - min(costs) < 3
    seen = [block for part in parts for block in part.blocks(50)]
    assert sum(queries.stop - queries.start for queries, _ in seen) == sum(lengths)


def test_lanes_are_for_adapters_on_a_processor() -> None:
    assert possible_lanes(attach(make_model(), AdapterSpec(r=1, targets=["q_proj"]))) == 2
    assert possible_lanes(make_model()) == 1
    with torch.no_grad():  # nor is there a gradient to copy
        assert possible_lanes(make_model()) == 2
    assert possible_lanes(make_model().to("meta")) == 1


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 5))
def test_dealing_gives_everything_once_and_evenly(sizes: list[int], hands: int) -> None:
    dealt = deal(sizes, hands)
    assert sorted(index for hand in dealt for index in hand) == list(range(len(sizes)))
    sums = [sum(sizes[index] for index in hand) for hand in dealt]
    assert max(sums) - min(sums) <= max(sizes) or len(dealt) < hands
