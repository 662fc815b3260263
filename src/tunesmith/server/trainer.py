"""The process that trains one job: `python -m tunesmith.server.trainer FOLDER STAGE SLOTS`.

It holds two locks of its own for as long as it lives, so whoever started it may die: one on the job's folder (never two
trainers for one job) and one of `SLOTS` device slots (no more jobs at once than the device takes). It looks for a stop
file, which works across a restart of the server and across hosts, and then stops after the step under way. What it
comes to is in `STAGE.json`, written only when the stage is over.
"""

import fcntl
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

import msgspec
from msgspec import Struct

from tunesmith import storage
from tunesmith.errors import DataError, TunesmithError
from tunesmith.run_folder import RunFolder
from tunesmith.spec import load_spec

Stage = Literal["train", "evaluate"]

BUSY = 75
"""Exit code when another trainer holds the job (EX_TEMPFAIL)."""

INTERRUPTED = 3
"""Exit code when it was asked to stop and has kept a checkpoint."""

POLL_SECONDS = 0.2

STOP_GRACE_SECONDS = 600
"""How long the step under way may take after a stop was asked for."""


class Outcome(Struct, frozen=True):
    """What a stage came to: `error` is None when it went well. `tokens` are those trained on, over all epochs."""

    steps: int = 0
    tokens: int = 0
    error: dict[str, str | None] | None = None


class Parent(Struct, frozen=True):
    """The fine-tuned model that a job starts from: base weights, as `models.load` takes them, and an adapter."""

    base: str
    adapter: str | None  # a folder


class JobFolder(Struct, frozen=True):
    """Where a job keeps its things."""

    root: Path

    @property
    def spec(self) -> Path:
        """The run spec to train by."""
        return self.root / "job.yaml"

    @property
    def parent(self) -> Path:
        """The `Parent` of a job that starts from a fine-tuned model."""
        return self.root / "parent.json"

    @property
    def base(self) -> Path:
        """That model in one piece: what such a job trains, and what its result is served over."""
        return self.root / "base"

    @property
    def grader(self) -> Path:
        """The grader of a reinforcement job."""
        return self.root / "grader.json"

    @property
    def reward(self) -> Path:
        """The module that makes a reward function of it."""
        return self.root / "reward.py"

    @property
    def run(self) -> RunFolder:
        """The run."""
        return RunFolder(self.root / "run")

    @property
    def lock(self) -> Path:
        """Held by the trainer; its text is the trainer's process id."""
        return self.root / "trainer.lock"

    @property
    def stop(self) -> Path:
        """Its presence asks the trainer to stop."""
        return self.root / "stop"

    @property
    def log(self) -> Path:
        """What the trainer printed."""
        return self.root / "trainer.log"

    def outcome_file(self, stage: Stage) -> Path:
        """Where a stage's outcome is written."""
        return self.root / f"{stage}.json"

    def outcome(self, stage: Stage) -> Outcome | None:
        """What a stage came to; None while it is not over."""
        try:
            return msgspec.json.decode(self.outcome_file(stage).read_bytes(), type=Outcome)
        except FileNotFoundError:
            return None

    @property
    def has_rows_to_evaluate(self) -> bool:
        """Whether training left rows unseen, or a validation file was given."""
        return self.run.holdout.is_file() or load_spec(self.spec).data.eval is not None

    def drop_base(self) -> None:
        """Remove the merged parent of a job that ended without a model, unless a trainer still works on it."""
        if not self.is_held():
            shutil.rmtree(self.base, ignore_errors=True)

    def is_held(self) -> bool:
        """Whether a trainer is at work on the job, here or on another host that shares the folder."""
        try:
            with self.lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


def main(arguments: list[str]) -> int:
    """Run a stage of the job in a folder; returns the exit code."""
    folder, slots = JobFolder(Path(arguments[0])), int(arguments[2])
    stage: Stage = "evaluate" if arguments[1] == "evaluate" else "train"
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    held = _take_lock(folder.lock)
    if held is None:
        return BUSY
    held.truncate(0)
    held.write(str(os.getpid()))
    held.flush()
    folder.stop.unlink(missing_ok=True)
    if folder.outcome(stage) is not None:
        return 0
    threading.Thread(target=_obey_stop, args=(folder.stop,), daemon=True).start()
    _slot = _take_slot(folder.root.parent, slots)
    outcome = _finish(folder, stage)
    if outcome is not None and outcome.error is None and stage == "train" and folder.has_rows_to_evaluate:
        _finish(folder, "evaluate")  # in the same process: loading the libraries again would take longest
    return INTERRUPTED if outcome is None else 0


def _finish(folder: JobFolder, stage: Stage) -> Outcome | None:
    """Run a stage and write down what it came to; None when it was asked to stop."""
    outcome = _guarded({"train": _train, "evaluate": _evaluate}[stage], folder)
    if outcome is not None:
        storage.write_bytes(folder.outcome_file(stage), msgspec.json.encode(outcome))
    return outcome


def _train(folder: JobFolder) -> Outcome | None:
    from tunesmith import api

    if folder.parent.is_file() and not folder.base.is_dir():
        make_base(folder)
    result = api.train(load_spec(folder.spec), resume=folder.run.spec.exists())
    return None if result.reason == "interrupted" else Outcome(result.steps, result.tokens)


def make_base(folder: JobFolder) -> None:
    """Merge the parent into one model of the job's own, so that the parent may be deleted when the job has ended."""
    from tunesmith.exporting.merge import merge_adapter

    for unfinished in folder.root.glob(f".{folder.base.name}.*"):  # left by a killed trainer
        shutil.rmtree(unfinished, ignore_errors=True)
    parent = msgspec.json.decode(folder.parent.read_bytes(), type=Parent)
    if parent.adapter is None:
        with storage.atomic_folder(folder.base) as copy:
            shutil.copytree(parent.base, copy, dirs_exist_ok=True)
    else:
        merge_adapter(parent.base, Path(parent.adapter), folder.base, rows=load_spec(folder.spec).data.train)


def _evaluate(folder: JobFolder) -> Outcome:
    from tunesmith import api

    api.evaluate(folder.run.root)
    return Outcome()


def _guarded(stage: Callable[[JobFolder], Outcome | None], folder: JobFolder) -> Outcome | None:
    try:
        return stage(folder)
    except DataError as error:
        return Outcome(error={"code": "invalid_training_file", "message": str(error), "param": "training_file"})
    except TunesmithError as error:
        return Outcome(error={"code": "training_failed", "message": str(error), "param": None})
    except Exception:  # a bug of ours must end the job, not start it over and over
        logging.exception("failed")
        return Outcome(
            error={"code": "internal_error", "message": "Training failed; see the job's trainer.log", "param": None}
        )


def _take_lock(path: Path) -> IO[str] | None:
    """The lock file, locked for as long as it stays open; None when somebody holds it."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _take_slot(jobs: Path, slots: int) -> IO[str]:
    """Wait for one of this host's device slots."""
    host = os.uname().nodename
    while True:
        for number in range(slots):
            slot = _take_lock(jobs / f"{host}.slot-{number}.lock")
            if slot is not None:
                return slot
        time.sleep(POLL_SECONDS)


def _obey_stop(stop: Path) -> None:
    """Turn the stop file into the signal that training obeys: before training it ends us, in it, it asks politely."""
    while not stop.exists():
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_GRACE_SECONDS)
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
