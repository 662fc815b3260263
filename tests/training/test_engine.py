from typing import Any

import pytest
import torch
from tiny_models import CONFIGS, make_model, make_rows, reference_loss
from transformers import Trainer

from tunesmith.errors import TrainingError
from tunesmith.models.adapters import attach
from tunesmith.spec import AdapterSpec
from tunesmith.training.batches import MICRO_BATCH_TOKENS, MicroBatch
from tunesmith.training.engine import Engine, make_optimizer
from tunesmith.training.objectives import Loss, Objective
from tunesmith.training.objectives.dpo import Dpo
from tunesmith.training.objectives.sft import Sft
from tunesmith.training.preference import Pair


def make_engine(
    model: torch.nn.Module,
    *,
    objective: Objective[Any] | None = None,
    weight_decay: float = 0.01,
    micro_batch_tokens: int = MICRO_BATCH_TOKENS,
) -> Engine:
    return Engine(
        model,
        objective or Sft(model),
        make_optimizer(model, weight_decay=weight_decay),
        device=torch.device("cpu"),
        bf16=False,
        max_grad_norm=1.0,
        seed=0,
        micro_batch_tokens=micro_batch_tokens,
    )


def train_one_step(token_budget: int) -> tuple[float, float, dict[str, torch.Tensor]]:
    model = make_model()
    engine = make_engine(model, micro_batch_tokens=token_budget)
    engine._optimizer = torch.optim.SGD(model.parameters())  # its step is the gradient itself
    outcome = engine.step(make_rows(16), step=0, learning_rate=1.0)
    return outcome.loss, outcome.grad_norm, model.state_dict()


@pytest.mark.parametrize("token_budget", [1, 100, 300])
def test_micro_batches_change_neither_loss_nor_gradients_nor_the_step(token_budget: int) -> None:
    loss, norm, weights = train_one_step(10**6)
    other_loss, other_norm, other_weights = train_one_step(token_budget)
    assert other_loss == pytest.approx(loss, abs=1e-6)
    assert other_norm == pytest.approx(norm, rel=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(other_weights[name], value, atol=1e-6, rtol=1e-5)


def test_micro_batches_do_not_change_how_much_chosen_replies_are_imitated() -> None:
    rows = make_rows(16)
    pairs = [Pair(chosen, rejected, (-1.0, -2.0)) for chosen, rejected in zip(rows[0::2], rows[1::2], strict=True)]
    seen = []
    for token_budget in (1, 10**6):
        model = make_model()
        dpo = Dpo(model, loss_type="sigmoid", beta=0.1, sft_weight=0.5)
        engine = make_engine(model, objective=dpo, micro_batch_tokens=token_budget)
        outcome = engine.step(pairs, step=0, learning_rate=0.0)
        seen.append((outcome.loss, outcome.grad_norm, outcome.measures["sft_loss"], engine.validate(pairs).loss))
    assert seen[0] == pytest.approx(seen[1], rel=1e-5)
    assert seen[0][2] == pytest.approx(reference_loss(model, rows[0::2]).item(), rel=1e-5)
    assert seen[0][3] == pytest.approx(seen[0][0], rel=1e-5)


def test_the_step_loss_is_the_mean_over_its_supervised_tokens() -> None:
    rows = make_rows(8)
    model = make_model()
    expected = reference_loss(model, rows).item()
    outcome = make_engine(model).step(rows, step=0, learning_rate=0.0)
    assert outcome.loss == pytest.approx(expected, abs=1e-5)
    assert outcome.supervised_tokens == sum(int(row.supervised[1:].sum()) for row in rows)
    assert outcome.tokens == sum(len(row.tokens) for row in rows)


def test_an_adapter_on_the_head_learns_what_peft_computes() -> None:
    rows = make_rows(8)
    model = attach(make_model(), AdapterSpec(targets=["q_proj", "lm_head"], init="gaussian"))
    expected = reference_loss(model, rows).item()
    engine = make_engine(model)
    assert engine.step(rows, step=0, learning_rate=0.1).loss == pytest.approx(expected, abs=1e-5)
    assert all(value.any() for name, value in model.named_parameters() if "lm_head.lora_B" in name)


def test_validation_is_the_same_loss_without_dropout() -> None:
    rows = make_rows(8)
    model = attach(make_model(), AdapterSpec(dropout=0.9))
    expected = reference_loss(model.eval(), rows).item()
    assert make_engine(model).validate(rows).loss == pytest.approx(expected, abs=1e-5)


def test_dropout_depends_on_the_step_alone() -> None:
    def losses(steps: list[int]) -> list[float]:
        model = make_model(attention_dropout=0.5)
        engine = make_engine(model)
        return [engine.step(make_rows(4), step=step, learning_rate=0.0).loss for step in steps]

    zero, one = losses([0, 1])
    assert losses([1]) == [one]
    assert zero != one


def test_a_loss_that_is_not_finite_changes_no_parameter() -> None:
    model = make_model()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outcome = make_engine(model).step(make_rows(4), step=0, learning_rate=1.0)
    assert not outcome.finite
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


class OutOfMemoryAbove(Sft):
    """An objective on a device that holds at most `tokens` padded tokens, and says so as `error`."""

    def __init__(self, model: torch.nn.Module, tokens: int, error: Exception | None = None) -> None:
        super().__init__(model)
        self._tokens = tokens
        self._error = error or torch.OutOfMemoryError()

    def loss(self, batch: MicroBatch) -> Loss:
        if batch.input_ids.numel() > self._tokens:
            raise self._error
        return super().loss(batch)


CPU_ERROR = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: error code 12"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), RuntimeError(CPU_ERROR), MemoryError()])
def test_a_step_that_does_not_fit_is_done_in_smaller_micro_batches(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    rows = make_rows(16)
    model, roomy = make_model(), make_model()
    engine = make_engine(model)
    engine._objective = OutOfMemoryAbove(model, 100, error)
    expected = make_engine(roomy).step(rows, step=0, learning_rate=1e-3)
    outcome = engine.step(rows, step=0, learning_rate=1e-3)
    assert outcome.loss == pytest.approx(expected.loss, abs=1e-6)
    assert outcome.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)
    assert "out of memory on cpu: going on with micro-batches of at most" in caplog.text


def test_an_error_that_is_none_of_memory_stays_what_it_is() -> None:
    model = make_model()
    engine = make_engine(model)
    engine._objective = OutOfMemoryAbove(model, 0, RuntimeError("a kernel failed"))
    with pytest.raises(RuntimeError, match="a kernel failed"):
        engine.step(make_rows(2), step=0, learning_rate=1e-3)


def test_an_evaluation_that_does_not_fit_is_made_in_smaller_micro_batches(caplog: pytest.LogCaptureFixture) -> None:
    rows, model = make_rows(16), make_model()
    expected = make_engine(model).validate(rows)
    engine = make_engine(model)
    engine._objective = OutOfMemoryAbove(model, 100)
    assert engine.validate(rows).loss == pytest.approx(expected.loss, abs=1e-6)
    assert "out of memory on cpu: going on with micro-batches of at most" in caplog.text


def test_a_row_that_fits_nowhere_is_an_error_that_says_what_to_change() -> None:
    model = make_model()
    engine = make_engine(model)
    engine._objective = OutOfMemoryAbove(model, 3)
    with pytest.raises(TrainingError, match=r"does not fit .* lower training\.max_length"):
        engine.step(make_rows(2), step=0, learning_rate=1e-3)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_parameters_that_decay_are_those_of_transformers_trainer(architecture: str, dora: bool) -> None:
    model = attach(make_model(architecture), AdapterSpec(dora=True)) if dora else make_model(architecture)
    optimizer = make_optimizer(model, weight_decay=0.1)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    expected = set(Trainer.get_decay_parameter_names(None, model))
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (name in expected and parameter.requires_grad), name
