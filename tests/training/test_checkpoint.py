from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from tiny_models import make_model, make_rows

from tunesmith.errors import RunError, StorageError
from tunesmith.training.checkpoint import Checkpoints, Progress
from tunesmith.training.engine import Engine, make_optimizer
from tunesmith.training.objectives.sft import Sft


def make_parts(folder: Path, **changes: object) -> tuple[torch.nn.Module, Engine, Checkpoints]:
    model = make_model(**changes)
    optimizer = make_optimizer(model, weight_decay=0.01)
    engine = Engine(model, Sft(model), optimizer, device=torch.device("cpu"), bf16=False, max_grad_norm=1.0, seed=0)
    return model, engine, Checkpoints(folder, model, optimizer)


def test_a_restored_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    model, engine, checkpoints = make_parts(tmp_path)
    engine.step(make_rows(4), step=0, learning_rate=1e-2)
    checkpoints.save(Progress("digest", step=1))
    engine.step(make_rows(4, seed=1), step=1, learning_rate=1e-2)

    other, other_engine, other_checkpoints = make_parts(tmp_path)
    other_checkpoints.restore(1)
    other_engine.step(make_rows(4, seed=1), step=1, learning_rate=1e-2)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    _, _, checkpoints = make_parts(tmp_path)
    (tmp_path / ".step-9.unfinished").mkdir()
    for step in range(1, 7):
        checkpoints.save(Progress("digest", step=step, best_step=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-2", "step-5", "step-6"]
    latest = checkpoints.latest()
    assert latest == Progress("digest", step=6, best_step=2)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    _, _, checkpoints = make_parts(tmp_path)
    checkpoints.save(Progress("digest", step=1))
    _, _, others = make_parts(tmp_path, hidden_size=64)
    with pytest.raises(RunError, match="not of this model"):
        others.restore(1)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    _, _, checkpoints = make_parts(tmp_path)
    progress = Progress("digest", step=1)
    checkpoints.save(progress)
    checkpoints.save(replace(progress, step=2))
    (tmp_path / "step-2" / "parameters.safetensors").write_bytes(b"cut off")
    with pytest.raises(RunError, match=r"step-2/parameters\.safetensors: a damaged checkpoint"):
        checkpoints.restore(2)


def test_a_disk_that_fills_up_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    _, _, checkpoints = make_parts(tmp_path)
    checkpoints.save(Progress("digest", step=1))

    def refuse(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("tunesmith.training.checkpoint.save_file", refuse)
    with pytest.raises(StorageError, match="No space left on device"):
        checkpoints.save(Progress("digest", step=2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
