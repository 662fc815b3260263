"""What the pages say about a run, a job's or one of `tunesmith train`, gathered from its event log and its evaluation.

Everything is made anew from what is on disk, so a page that is opened late, or again, shows what one that watched does.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec
from msgspec import Struct

from tunesmith.evaluation.result import Evaluation, MetricComparison, Verdict
from tunesmith.report.html import smoothed
from tunesmith.run_folder import RunFolder
from tunesmith.server.job_results import read_events
from tunesmith.training.events import EndEvent, EvalEvent, StartEvent, StepEvent, VerdictEvent

MOST_POINTS = 800
"""Of a live curve: more than a screen can show; a longer run is thinned evenly, its latest step always there."""


class Curves(Struct, frozen=True):
    """The losses so far, in nats per token, by step; None where nothing was measured (training at step 0)."""

    steps: list[int]
    training: list[float | None]
    smoothed: list[float | None]
    validation: list[float | None]
    total_steps: int


@dataclass(frozen=True)
class RunSummary:
    """How far a run has come, and what it came to. `end` is why training ended, while nothing has begun it again."""

    step: int
    total_steps: int
    loss: float | None
    validation: float | None
    verdicts: tuple[VerdictEvent | Verdict, ...]
    headline: MetricComparison | None
    change: str
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
    losses = {event.step: event.loss for event in events if isinstance(event, StepEvent)}
    validated = {event.step: event.loss for event in events if isinstance(event, EvalEvent)}
    total = next((event.total_steps for event in reversed(events) if isinstance(event, StartEvent)), 0)
    steps = sorted(losses)
    smooth = dict(zip(steps, smoothed([losses[step] for step in steps]), strict=True))
    every = -(-len(steps) // MOST_POINTS) or 1
    shown = sorted({*steps[::every], *steps[-1:], *validated})
    training, smooth_training, validation = (
        [round(line[step], 5) if step in line else None for step in shown] for line in (losses, smooth, validated)
    )
    return Curves(shown, training, smooth_training, validation, total)


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
    live = {event.name: event for event in events if isinstance(event, VerdictEvent)}
    turns = [event for event in events if isinstance(event, StartEvent | EndEvent)]
    evaluation = _read_evaluation(run)
    headline = evaluation.metrics[0] if evaluation is not None and evaluation.metrics else None
    return RunSummary(
        step=steps[-1].step if steps else 0,
        total_steps=starts[-1].total_steps if starts else 0,
        loss=steps[-1].loss if steps else None,
        validation=evals[-1].loss if evals else None,
        verdicts=evaluation.verdicts if evaluation is not None else tuple(live.values()),
        headline=headline,
        change="none" if headline is None else _change(headline),
        begun=starts[0].time if starts else None,
        end=turns[-1].reason if turns and isinstance(turns[-1], EndEvent) else None,
    )


def _read_evaluation(run: RunFolder) -> Evaluation | None:
    """The run's evaluation; None before there is one, or when it cannot be read (its page then says so)."""
    try:
        return msgspec.json.decode(run.evaluation.read_bytes(), type=Evaluation)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _change(metric: MetricComparison) -> str:
    if not metric.significant:
        return "none"
    return "good" if (metric.difference.value > 0) == (metric.better == "higher") else "bad"
