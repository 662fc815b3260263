"""The one loop: next rows → step → record → validate → checkpoint → stop?

The order is a promise: an event is on the disk before the checkpoint that follows it, and the checkpoint knows the
log's length, so a run killed anywhere resumes with neither a gap nor a repeat.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from tunesmith.errors import ModelError, TrainingError
from tunesmith.spec import TrainingSpec
from tunesmith.training import ranks
from tunesmith.training.batches import step_rows, steps_per_epoch
from tunesmith.training.checkpoint import Checkpoints, Progress
from tunesmith.training.data import TrainingData
from tunesmith.training.engine import Engine, StepOutcome
from tunesmith.training.event_log import EventLog
from tunesmith.training.events import EvalEvent, StepEvent
from tunesmith.training.schedule import learning_rate
from tunesmith.training.signals import live_signals

Reason = Literal["finished", "early_stopping", "interrupted"]

LEAST_EVALUATIONS = 4
"""Evaluations in a run when the spec does not say how often: fewer draw no curve."""


@dataclass(frozen=True)
class Timetable:
    """What happens when: optimizer steps in an epoch and in all, and between evaluations."""

    steps_per_epoch: int
    total_steps: int
    eval_every: int


def timetable(spec: TrainingSpec, train_rows: int) -> Timetable:
    """The timetable for `train_rows` rows; a part of an epoch rounds up to a whole step, as in transformers."""
    epoch = steps_per_epoch(train_rows, spec.batch_size)
    total = math.ceil(spec.planned_epochs * epoch) if spec.steps is None else spec.steps
    return Timetable(epoch, total, spec.eval_every or max(1, min(epoch, total // LEAST_EVALUATIONS)))


def run_loop(
    engine: Engine,
    data: TrainingData,
    spec: TrainingSpec,
    log: EventLog,
    checkpoints: Checkpoints,
    progress: Progress,
    interrupted: Callable[[], bool],
) -> tuple[Progress, Reason]:
    """Train from `progress` until a reason to stop; a checkpoint of the last step is there on return.

    Raises TrainingError when the loss is not finite (after a checkpoint of the state before it).
    """
    times = timetable(spec, len(data.train))
    if progress.step == 0 or not progress.validated:
        progress = _validate(engine, data, log, progress)
    while (reason := _reason_to_stop(progress, spec, times, interrupted)) is None:
        started = time.perf_counter()
        indices = step_rows(progress.step, rows=len(data.train), batch_size=spec.batch_size, seed=spec.seed)
        rate = learning_rate(
            progress.step,
            total_steps=times.total_steps,
            peak=spec.learning_rate,
            warmup=spec.warmup,
            scheduler=spec.scheduler,
        )
        examples = [data.train[index] for index in indices]
        with _checkpoint_on_error(checkpoints, log, progress):
            outcome = engine.step(examples, step=progress.step, learning_rate=rate)
        if outcome.exploded:
            if not outcome.begun:
                _save(checkpoints, log, progress)
            raise TrainingError(_diverged(progress, spec, outcome, checkpoints))
        seconds = time.perf_counter() - started
        progress = replace(
            progress,
            step=progress.step + 1,
            tokens=progress.tokens + outcome.tokens,
            seconds=progress.seconds + seconds,
        )
        log.record(
            StepEvent(
                step=progress.step,
                loss=outcome.loss,
                learning_rate=rate,
                grad_norm=outcome.grad_norm,
                tokens=outcome.tokens,
                supervised_tokens=outcome.supervised_tokens,
                seconds=seconds,
                epoch=progress.step / times.steps_per_epoch,
                measures=dict(outcome.measures),
            )
        )
        if progress.step % times.eval_every == 0 or progress.step == times.total_steps:
            with _checkpoint_on_error(checkpoints, log, replace(progress, validated=False)):
                progress = _validate(engine, data, log, progress)
        for verdict in live_signals(log.events):
            log.record(verdict)
        if progress.step % spec.checkpoint_every == 0 or progress.step == progress.best_step:
            _save(checkpoints, log, progress)
    _save(checkpoints, log, progress)
    return progress, reason


def _reason_to_stop(
    progress: Progress, spec: TrainingSpec, times: Timetable, interrupted: Callable[[], bool]
) -> Reason | None:
    if progress.step >= times.total_steps:
        return "finished"
    if spec.early_stopping is not None and progress.evals_since_best >= spec.early_stopping.patience:
        return "early_stopping"
    return "interrupted" if ranks.agree(interrupted()) else None


def _validate(engine: Engine, data: TrainingData, log: EventLog, progress: Progress) -> Progress:
    """Measure and record the validation loss; step 0 shows where the base stands and is never the best."""
    if not data.validation:
        return progress
    started = time.perf_counter()
    result = engine.validate(data.validation)
    seconds = time.perf_counter() - started
    best = progress.step > 0 and (progress.best_loss is None or result.loss < progress.best_loss)
    supervised = sum(row.targets for example in data.validation for row in example.rows)
    log.record(EvalEvent(progress.step, result.loss, supervised, seconds, best, dict(result.measures)))
    progress = replace(progress, validated=True)
    if best:
        return replace(progress, best_step=progress.step, best_loss=result.loss, evals_since_best=0)
    return replace(progress, evals_since_best=progress.evals_since_best + (progress.step > 0))


def _save(checkpoints: Checkpoints, log: EventLog, progress: Progress) -> None:
    if progress.step > 0:  # before the first step there is nothing that starting anew does not give
        checkpoints.save(replace(progress, events_bytes=log.size))


@contextmanager
def _checkpoint_on_error(checkpoints: Checkpoints, log: EventLog, progress: Progress) -> Iterator[None]:
    """What cannot be done (a reward function raises, a row does not fit) loses none of the steps before it."""
    try:
        yield
    except (TrainingError, ModelError):
        _save(checkpoints, log, progress)
        raise


def _diverged(progress: Progress, spec: TrainingSpec, outcome: StepOutcome, checkpoints: Checkpoints) -> str:
    if not math.isfinite(outcome.loss):
        what = f"the loss is {outcome.loss}"
    elif not math.isfinite(outcome.grad_norm):
        what = "the gradient is not finite"
    else:
        what = f"the gradient exploded (its norm is {outcome.grad_norm:.2g})"
    if progress.step == 0 and not outcome.begun and not math.isfinite(outcome.loss):
        return f"step 1: {what} before anything was learned. Check the model's weights, or set training.precision: fp32"
    saved = progress.step > 0 and not outcome.begun
    kept = f"; the state before it is kept in {checkpoints.path(progress.step)}" if saved else ""
    return (
        f"step {progress.step + 1}: {what}{kept}. Lower training.learning_rate (now {spec.learning_rate:g}), "
        "raise training.warmup, or set training.precision: fp32"
    )
