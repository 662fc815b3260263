"""What the pages say about a run, a job's or one of `tunesmith train`, gathered from its event log and its evaluation.

Everything is made anew from what is on disk, so a page that is opened late, or again, shows what one that watched does.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec
from msgspec import Struct

from tunesmith.evaluation.result import Change, Evaluation, MetricComparison, Verdict
from tunesmith.report.charts import thinned
from tunesmith.report.measures import smoothed
from tunesmith.report.run_data import curve_verdicts
from tunesmith.run_folder import RunFolder
from tunesmith.server.job_results import read_events
from tunesmith.training.events import EndEvent, EvalEvent, StartEvent, StepEvent, VerdictEvent

MOST_POINTS = 800
"""Of a live curve: more than a screen can show."""


class Mark(Struct, frozen=True):
    """A verdict on a curve."""

    step: int
    status: str
    finding: str


class Curves(Struct, frozen=True):
    """The losses so far, in nats per token, by step; None where nothing was measured (training at step 0)."""

    steps: list[int]
    training: list[float | None]
    smoothed: list[float | None]
    validation: list[float | None]
    total_steps: int
    marks: list[Mark]


@dataclass(frozen=True)
class RunSummary:
    """How far a run has come, and what it came to. `end` is why training ended, while nothing has begun it again."""

    step: int
    total_steps: int
    loss: float | None
    validation: float | None
    verdicts: tuple[VerdictEvent | Verdict, ...]
    headline: MetricComparison | None
    change: Change
    begun: float | None
    end: str | None

    @property
    def marks(self) -> dict[str, int]:
        """How many verdicts there are of each status."""
        return {
            status: number
            for status in ("good", "warn", "bad")
            if (number := sum(verdict.status == status for verdict in self.verdicts))
        }


def summarize_run(run: RunFolder) -> RunSummary:
    """The run as far as it has come; read again only when it has changed."""
    return _summary(run, stamp(run.events), stamp(run.evaluation))


def curves(run: RunFolder) -> Curves:
    """The run's losses, at most `MOST_POINTS` of them."""
    events = read_events(run)
    losses = {e.step: e.loss for e in events if isinstance(e, StepEvent) and math.isfinite(e.loss)}
    validated = {e.step: e.loss for e in events if isinstance(e, EvalEvent) and math.isfinite(e.loss)}
    total = next((event.total_steps for event in reversed(events) if isinstance(event, StartEvent)), 0)
    steps = sorted(losses)
    smooth = dict(zip(steps, smoothed([losses[step] for step in steps]), strict=True))
    drawn = [int(step) for step, _ in thinned([(step, losses[step]) for step in steps], MOST_POINTS)]
    shown = sorted({*drawn, *validated})
    training, smooth_training, validation = (
        [round(line[step], 5) if step in line else None for step in shown] for line in (losses, smooth, validated)
    )
    marks = [Mark(verdict.step, verdict.status, verdict.finding) for verdict in curve_verdicts(events)]
    return Curves(shown, training, smooth_training, validation, total, marks)


def stamp(path: Path) -> tuple[int, int]:
    """What changes with the file: its time and its size; zeros where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=256)
def _summary(run: RunFolder, _events: tuple[int, int], _evaluation: tuple[int, int]) -> RunSummary:
    events = read_events(run)
    steps = [event for event in events if isinstance(event, StepEvent)]
    evals = [event for event in events if isinstance(event, EvalEvent)]
    starts = [event for event in events if isinstance(event, StartEvent)]
    turns = [event for event in events if isinstance(event, StartEvent | EndEvent)]
    evaluation = _read_evaluation(run)
    headline = evaluation.metrics[0] if evaluation is not None and evaluation.metrics else None
    return RunSummary(
        step=steps[-1].step if steps else 0,
        total_steps=starts[-1].total_steps if starts else 0,
        loss=steps[-1].loss if steps else None,
        validation=evals[-1].loss if evals else None,
        verdicts=evaluation.verdicts if evaluation is not None else curve_verdicts(events),
        headline=headline,
        change="none" if evaluation is None or headline is None else evaluation.change(headline),
        begun=starts[0].time if starts else None,
        end=turns[-1].reason if turns and isinstance(turns[-1], EndEvent) else None,
    )


def _read_evaluation(run: RunFolder) -> Evaluation | None:
    """The run's evaluation; None before there is one, or when it cannot be read (its page then says so)."""
    try:
        return msgspec.json.decode(run.evaluation.read_bytes(), type=Evaluation)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
