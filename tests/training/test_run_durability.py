"""What stops a run: it stops with a checkpoint, a sentence that says what to try, and goes on from there."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from test_train import make_spec, read_events
from tiny_models import make_model, make_rows

from tunesmith.errors import StorageError, TrainingError
from tunesmith.run_folder import RunFolder
from tunesmith.training import checkpoint as checkpoint_module
from tunesmith.training.batches import MicroBatch, Row
from tunesmith.training.engine import EXPLODED, Engine, make_optimizer
from tunesmith.training.events import EvalEvent, StepEvent
from tunesmith.training.objectives import Loss
from tunesmith.training.objectives.sft import Sft
from tunesmith.training.run import train
from tunesmith.training.scores import Scores
from tunesmith.training.token_loss import TokenLoss


def steps(run: RunFolder) -> list[int]:
    return [event.step for event in read_events(run) if isinstance(event, StepEvent)]


@pytest.mark.parametrize(("calls", "eval_every"), [(3, 4), (3, 2)], ids=["in a step", "in a validation"])
def test_a_reward_function_that_raises_costs_no_step_that_was_made(
    calls: int, eval_every: int, pairs: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "mended"
    code = tmp_path / "rewards.py"
    code.write_text(
        "import pathlib\n"
        "calls = []\n"
        "def reward(completions):\n"
        "    calls.append(1)\n"
        f"    if len(calls) > {calls} and not pathlib.Path({str(flag)!r}).exists():\n"
        "        raise KeyError('price')\n"
        "    return [-len(text) for text in completions]\n"
    )
    objective = {"kind": "grpo", "reward": f"{code}:reward", "num_generations": 2, "max_completion_length": 4}
    training = {"steps": 4, "epochs": None, "batch_size": 2, "eval_every": eval_every, "max_length": 96}
    spec = make_spec(pairs, tmp_path / "run", objective=objective, training=training)
    with pytest.raises(TrainingError, match=r"reward raised KeyError: 'price' \(.*rewards\.py:6\); mend it and go on"):
        train(spec)
    run = RunFolder(Path(spec.output))
    assert (run.checkpoints / "step-2").is_dir()  # the first call was the evaluation before the first step

    flag.touch()
    assert train(spec, resume=True).reason == "finished"
    assert steps(run) == [1, 2, 3, 4]
    evaluated = [event.step for event in read_events(run) if isinstance(event, EvalEvent)]
    assert evaluated == list(range(0, 5, eval_every))


def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(
    tickets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if "step-4" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(tensors, path)

    real = checkpoint_module.save_file
    monkeypatch.setattr(checkpoint_module, "save_file", full)
    training = {"steps": 5, "epochs": None, "checkpoint_every": 2}
    spec = make_spec(tickets, tmp_path / "run", data={"holdout": 0}, training=training)
    with pytest.raises(StorageError, match=r"No space left on device; .* whole up to step 2, go on with --resume"):
        train(spec)
    run = RunFolder(Path(spec.output))
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-2"]

    monkeypatch.setattr(checkpoint_module, "save_file", real)
    assert train(spec, resume=True).reason == "finished"
    assert steps(run) == [1, 2, 3, 4, 5]


def test_a_disk_that_is_full_at_the_end_keeps_what_was_trained(
    tickets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    spec = make_spec(tickets, tmp_path / "run", data={"holdout": 0}, training={"steps": 2, "epochs": None})
    with monkeypatch.context() as patch:
        patch.setattr("tunesmith.training.run.save_adapter", full)
        with pytest.raises(StorageError, match=r"run/adapter: .* whole up to step 2, go on with --resume"):
            train(spec)
    assert train(spec, resume=True).run.adapter.is_dir()


class Scaled(Sft):
    """A loss as steep as one likes."""

    factor = 1.0

    def loss(self, batch: object) -> Loss:
        return Loss(super().loss(batch).total * self.factor)


def test_gradients_that_are_clipped_hard_do_not_explode() -> None:
    model = make_model()
    engine = Engine(
        model, Sft(model), make_optimizer(model, weight_decay=0.0),
        device=torch.device("cpu"), bf16=False, max_grad_norm=1e-6, seed=0,
    )  # fmt: skip
    outcome = engine.step(make_rows(4), step=0, learning_rate=1e-3)
    assert outcome.grad_norm > EXPLODED * 1e-6
    assert not outcome.exploded


@pytest.mark.parametrize("factor", [1e7, float("inf"), float("nan")])
def test_an_update_that_explodes_is_not_made(factor: float) -> None:
    model = make_model()
    objective = Scaled(model)
    engine = Engine(
        model, objective, make_optimizer(model, weight_decay=0.0),
        device=torch.device("cpu"), bf16=False, max_grad_norm=1.0, seed=0,
    )  # fmt: skip
    assert not engine.step(make_rows(4), step=0, learning_rate=1e-3).exploded
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objective.factor = factor
    outcome = engine.step(make_rows(4), step=1, learning_rate=1e-3)
    assert outcome.exploded
    assert not outcome.begun
    assert not outcome.grad_norm <= EXPLODED
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["sft", "dpo", "kto", "reward", "grpo", "ppo"])
def test_passes_that_do_not_fit_are_made_in_parts_and_come_to_the_same(
    kind: str,
    pairs: Path,
    judged: Path,
    brevity: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The step, the evaluation, the reference, what a policy thought of its replies, and a reward model's scores."""
    objectives: dict[str, dict[str, object]] = {
        "kto": {"kind": "dpo", "loss_type": "kto"},
        "grpo": {"kind": "grpo", "num_generations": 2, "max_completion_length": 2, "num_iterations": 2},
        "ppo": {"kind": "ppo", "max_completion_length": 2},
    }
    objective = objectives.get(kind, {"kind": kind})
    training = {"steps": 1, "epochs": None, "batch_size": 6, "max_length": 96}
    data = judged if kind == "kto" else pairs
    if kind == "grpo":
        objective["reward"] = brevity
    elif kind == "ppo":
        scorer = train(make_spec(pairs, tmp_path / "scorer", objective={"kind": "reward"}, training=training)).run
        objective["reward"] = str(scorer.root)
    sections = {"objective": objective, "training": training, "data": {"holdout": 0.2}}
    roomy = train(make_spec(data, tmp_path / "roomy", **sections)).run

    def losses(token_loss: TokenLoss, batch: MicroBatch) -> torch.Tensor:
        if len(batch.examples) > 2:
            raise torch.OutOfMemoryError
        return losses_of(token_loss, batch)

    def scores(scorer: Scores, input_ids: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        if len(rows) > 4:
            raise torch.OutOfMemoryError
        return scores_of(scorer, input_ids, rows)

    losses_of, scores_of = TokenLoss.of, Scores.of
    monkeypatch.setattr(TokenLoss, "of", losses)
    monkeypatch.setattr(Scores, "of", scores)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))  # where no reference is known yet
    tight = train(make_spec(data, tmp_path / "tight", **sections)).run
    assert "going on with micro-batches of at most" in caplog.text
    told = [[e for e in read_events(run) if isinstance(e, StepEvent | EvalEvent)] for run in (roomy, tight)]
    assert len(told[0]) == 3  # before, the step, after
    for one, other in zip(*told, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5, abs=1e-6)
        assert without_ties(other.measures) == pytest.approx(without_ties(one.measures), rel=1e-4, abs=1e-5)
        if isinstance(one, StepEvent) and isinstance(other, StepEvent):
            assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)


def without_ties(measures: dict[str, float]) -> dict[str, float]:
    """Without the accuracy: before the first update, which of two equal rewards is larger is the rounding's choice."""
    return {name: value for name, value in measures.items() if name != "rewards/accuracies"}
