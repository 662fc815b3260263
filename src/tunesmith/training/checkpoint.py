"""Checkpoints: the parameters that learn, the optimizer's moments, and how far the run is.

Nothing else is state: the order of rows, the learning rate and the random numbers of a step are functions of the spec
and the step. Only parameters that learn are kept (a LoRA checkpoint is megabytes), as safetensors, in a folder that is
there whole or not at all. The newest `KEEP` and the best one stay.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch
from msgspec import Struct
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tunesmith.errors import RunError, StorageError
from tunesmith.storage import atomic_folder
from tunesmith.training import ranks
from tunesmith.training.sharding import as_part_of, give_back, whole

KEEP = 2
"""Newest checkpoints kept: a damaged disk block then costs one interval, not the run."""


class Progress(Struct, frozen=True):
    """How far a run is after `step` optimizer steps.

    `rows_digest` identifies the rendered training rows; `events_bytes` is the event log's length; `tokens` and
    `seconds` are those of all training steps, across resumptions. Not `validated`: the validation that was due after
    this step could not be made.
    """

    rows_digest: str
    step: int = 0
    best_step: int | None = None
    best_loss: float | None = None
    evals_since_best: int = 0
    tokens: int = 0
    seconds: float = 0.0
    events_bytes: int = 0
    validated: bool = True


class Checkpoints:
    """The `checkpoints/` folder of one run, for one model and its optimizer."""

    def __init__(self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._folder = folder
        self._model = model
        self._optimizer = optimizer
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}

    def save(self, progress: Progress) -> None:
        """Write `checkpoints/step-N` and remove those no longer wanted. Raises StorageError when the disk refuses.

        Every rank has the same to save, and the first does.
        """
        moments = {
            f"{name}.{key}": value
            for name, parameter in self._parameters.items()
            for key, value in self._optimizer.state.get(parameter, {}).items()
        }
        parameters, moments = _contiguous(self._parameters), _contiguous(moments)
        with ranks.agreeing():
            if ranks.is_main():
                self._write(progress, parameters, moments)

    def _write(self, progress: Progress, parameters: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        with atomic_folder(self.path(progress.step)) as folder, storage_errors(self.path(progress.step)):
            save_file(parameters, folder / "parameters.safetensors")
            save_file(moments, folder / "optimizer.safetensors")
            (folder / "progress.json").write_bytes(msgspec.json.encode(progress))
        self._prune(progress)

    def latest(self) -> Progress | None:
        """The progress of the newest checkpoint; None when there is none."""
        steps = self._steps()
        if not steps:
            return None
        path = self.path(steps[-1]) / "progress.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Progress)
        except (OSError, msgspec.DecodeError) as error:
            raise RunError(
                f"{path}: a damaged checkpoint ({error}); remove its folder to use the one before"
            ) from error

    def restore(self, step: int) -> None:
        """Put the parameters and the optimizer back to what they were after `step`."""
        self.restore_parameters(step)
        moments = _load(self.path(step) / "optimizer.safetensors")
        for name, parameter in self._parameters.items():
            prefix = f"{name}."
            self._optimizer.state[parameter] = {
                key.removeprefix(prefix): as_part_of(parameter, value)
                for key, value in moments.items()
                if key.startswith(prefix)
            }

    @torch.no_grad()
    def restore_parameters(self, step: int) -> None:
        """Put the parameters back to what they were after `step`. Raises RunError when they do not fit the model."""
        path = self.path(step) / "parameters.safetensors"
        saved = _load(path)
        shapes = {name: value.shape for name, value in self._parameters.items()}
        if {name: value.shape for name, value in saved.items()} != shapes:
            raise RunError(f"{path}: not of this model and adapter; resume with the run's own spec and model")
        give_back(self._model)  # or the next pass would compute with what the last one left gathered
        for name, parameter in self._parameters.items():
            parameter.copy_(as_part_of(parameter, saved[name]))

    def path(self, step: int) -> Path:
        """The folder of the checkpoint after `step`."""
        return self._folder / f"step-{step}"

    def _steps(self) -> list[int]:
        names = [path.name.removeprefix("step-") for path in self._folder.glob("step-*")]
        return sorted(int(name) for name in names if name.isdigit())

    def _prune(self, progress: Progress) -> None:
        kept = {*self._steps()[-KEEP:], progress.best_step}
        for step in self._steps():
            if step not in kept:
                shutil.rmtree(self.path(step), ignore_errors=True)
        for unfinished in self._folder.glob(".step-*"):  # left by a killed process
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """safetensors reports a full disk in its own error type; here it becomes a StorageError like any other."""
    try:
        yield
    except SafetensorError as error:
        raise StorageError(f"{path}: cannot write: {error}; free space or choose another output") from error


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are written; sharded ones are gathered, for the main process to keep in its own memory."""
    found = {}
    for name, tensor in tensors.items():
        gathered = whole(tensor.detach())
        if ranks.is_main():
            found[name] = gathered.cpu() if isinstance(tensor, DTensor) else gathered.contiguous()
    return found


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: a damaged checkpoint ({error}); remove its folder to use the one before") from error
