"""`engine: trl`: the run through TRL's own trainer, as the reference to hold the engine against.

It is the script that `eject` prints, with its events recorded and its
adapter kept in the run folder, so that everything after training works on it. TRL validates once an epoch and keeps the
last step; it is not resumed.
"""

import runpy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments

from tunesmith import storage
from tunesmith.dataset.run_rows import RunRows, read_rows
from tunesmith.errors import MissingDependencyError, RunError, TrainingError, TunesmithError
from tunesmith.exporting.eject import trainer_script
from tunesmith.models.adapters import adapter_start, count_parameters
from tunesmith.models.load import load_tokenizer
from tunesmith.models.quiet import quiet
from tunesmith.planning.typical import range_warnings
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec, dump_spec
from tunesmith.training import ranks
from tunesmith.training.data import encode_rows
from tunesmith.training.event_log import EventLog
from tunesmith.training.events import EndEvent, EvalEvent, StartEvent, StepEvent
from tunesmith.training.run import RunResult, TrainObserver, write_trained
from tunesmith.training.signals import live_signals
from tunesmith.training.trackers import Trackers

REPORTED = {"loss", "grad_norm", "learning_rate", "epoch", "num_tokens", "num_input_tokens_seen", "step_time"}
"""What TRL logs of a step that is no measure of the objective, or has a place of its own in the event."""


def train_with_trl(
    run: RunFolder, spec: RunSpec, *, resume: bool = False, observer: TrainObserver | None = None
) -> RunResult:
    """Train `spec` with TRL into `run`. Raises MissingDependencyError without TRL, RunError for what it cannot do,
    DataError for rows that it cannot learn from, TrainingError when it stops."""
    _check(resume=resume)
    rows = read_rows(spec.data, spec.training.seed)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        script.write_text(trainer_script(run, spec, rows, folder=Path(folder)), encoding="utf-8")
        trainer: Any = _guarded(lambda: runpy.run_path(str(script))["trainer"])
        for shown in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(shown)
        parameters, start = count_parameters(trainer.model), adapter_start(trainer.model, spec.adapter)
        if rows.holdout:
            storage.write_bytes(run.holdout, encode_rows(rows.holdout))
        storage.write_text(run.spec, dump_spec(spec))
        with Trackers(spec, run, observer) as told_of, EventLog(run.events, told_of) as log:
            recorder = _Recorder(log, spec, rows)
            trainer.add_callback(recorder)
            _guarded(trainer.train)
            write_trained(run, trainer.model, load_tokenizer(spec.model), None, start)
            log.record(EndEvent(recorder.steps, "finished", None, recorder.seconds))
    return RunResult(
        run=run,
        reason="finished",
        parameters=parameters,
        steps=recorder.steps,
        best_step=None,
        best_loss=None,
        tokens=recorder.tokens,
        seconds=recorder.seconds,
        warnings=range_warnings(spec),
    )


def _check(*, resume: bool) -> None:
    try:
        import trl  # noqa: F401  # whether it is there
    except ImportError as error:
        raise MissingDependencyError("engine: trl needs TRL: pip install 'tunesmith[trl]'") from error
    if resume:
        raise RunError("engine: trl is not resumed; choose another output, or engine: tunesmith")
    if ranks.count() > 1:
        raise RunError(
            "engine: trl trains in one process here; use engine: tunesmith, or `tunesmith eject` and torchrun"
        )


def _guarded(work: Callable[[], Any]) -> Any:
    """What `work` returns; whatever TRL raises becomes a sentence."""
    try:
        with quiet():
            return work()
    except TunesmithError:
        raise
    except Exception as error:
        cause = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise TrainingError(
            f"engine: trl: TRL stopped with {type(error).__name__}: {cause}; use engine: tunesmith"
        ) from error


class _Recorder(TrainerCallback):
    """Writes what TRL logs as the run's events."""

    def __init__(self, log: EventLog, spec: RunSpec, rows: RunRows) -> None:
        self._log = log
        self._spec = spec
        self._rows = rows
        self._best: float | None = None
        self._began = 0.0
        self._own = 0.0  # seconds of the step that was made last
        self.steps = 0
        self.tokens = 0
        self.seconds = 0.0

    def on_train_begin(self, args: Arguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        parameters = count_parameters(given["model"])
        self._log.record(
            StartEvent(
                step=0,
                total_steps=state.max_steps,
                train_rows=len(self._rows.train),
                eval_rows=len(self._rows.validation),
                trainable_parameters=parameters.trainable,
                total_parameters=parameters.total,
                truncated_rows=0,
                supervised_tokens_lost=0.0,
                model=self._spec.model,
                objective=self._spec.objective.kind,
                precision="bf16" if args.bf16 else "fp32",
                time=time.time(),
                warnings=range_warnings(self._spec),
            )
        )

    def on_step_begin(self, args: Arguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        self._own = time.perf_counter() - self._began
        self.steps = state.global_step
        self.seconds += self._own

    def on_log(self, args: Arguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        logs: dict[str, float] = given["logs"]
        if "loss" in logs:
            tokens = int(logs.get("num_tokens", 0.0)) - self.tokens
            self.tokens += tokens
            measures = {name: float(value) for name, value in logs.items() if name not in REPORTED}
            self._log.record(
                StepEvent(
                    step=state.global_step,
                    loss=float(logs["loss"]),
                    learning_rate=float(logs.get("learning_rate", 0.0)),
                    grad_norm=float(logs.get("grad_norm", 0.0)),
                    tokens=tokens,
                    supervised_tokens=0,
                    seconds=self._own,
                    epoch=float(logs.get("epoch", 0.0)),
                    measures=measures,
                )
            )
        if "eval_loss" in logs:
            self._validated(state.global_step, logs)
        for verdict in live_signals(self._log.events):
            self._log.record(verdict)

    def _validated(self, step: int, logs: dict[str, float]) -> None:
        loss = float(logs["eval_loss"])
        best = self._best is None or loss < self._best
        self._best = loss if best else self._best
        measures = {
            name.removeprefix("eval_"): float(value) for name, value in logs.items() if name.startswith("eval_")
        }
        seconds = measures.pop("runtime", 0.0)
        for name in ("loss", "samples_per_second", "steps_per_second", "num_tokens"):
            measures.pop(name, None)
        self._log.record(EvalEvent(step, loss, 0, seconds, best, measures))
