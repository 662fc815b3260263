"""What the pages say about a job, gathered from its record, its run's event log and its evaluation.

Everything is made anew from what is on disk, so a page that is opened late, or again, shows what one that watched does.
"""

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec
from msgspec import Struct

from tunesmith.errors import TunesmithError
from tunesmith.evaluation.result import Evaluation, MetricComparison, Verdict
from tunesmith.report.html import run_part, smoothed
from tunesmith.run_folder import RunFolder
from tunesmith.server import jobs
from tunesmith.server.dashboard.access import Visitor
from tunesmith.server.dashboard.pages import part
from tunesmith.server.errors import RequestError
from tunesmith.server.job_results import read_events
from tunesmith.server.service import Service
from tunesmith.server.states import MOVES, TERMINAL
from tunesmith.server.store import JobRecord
from tunesmith.training.events import EvalEvent, StartEvent, StepEvent, VerdictEvent

MOST_POINTS = 800
"""Of a live curve: more than a screen can show; a longer run is thinned evenly, its latest step always there."""

ACTIONS = {"pause": "paused", "resume": "queued", "cancel": "cancelled"}
"""What a person can do to a job → the state that it moves to."""


class Curves(Struct, frozen=True):
    """The losses so far, in nats per token, by step; None where nothing was measured (training at step 0)."""

    steps: list[int]
    training: list[float | None]
    smoothed: list[float | None]
    validation: list[float | None]
    total_steps: int


@dataclass(frozen=True)
class JobSummary:
    """One line of the list, and the head of a job's page."""

    job: JobRecord
    name: str
    data: str
    step: int
    total_steps: int
    loss: float | None
    validation: float | None
    verdicts: tuple[VerdictEvent | Verdict, ...]
    headline: MetricComparison | None
    change: str

    @property
    def marks(self) -> dict[str, int]:
        """How many verdicts there are of each status."""
        return {
            status: number
            for status in ("good", "warn", "bad")
            if (number := sum(verdict.status == status for verdict in self.verdicts))
        }


def summarize(service: Service, job: JobRecord) -> JobSummary:
    """The job as far as it has come."""
    run = jobs.job_folder(service, job).run
    events = read_events(run)
    steps = [event for event in events if isinstance(event, StepEvent)]
    evals = [event for event in events if isinstance(event, EvalEvent)]
    starts = [event for event in events if isinstance(event, StartEvent)]
    live = {event.name: event for event in events if isinstance(event, VerdictEvent)}
    evaluation = read_evaluation(run)
    headline = evaluation.metrics[0] if evaluation is not None and evaluation.metrics else None
    data = _file_name(service, job)
    return JobSummary(
        job=job,
        name=job.suffix or data.split(".")[0],
        data=data,
        step=steps[-1].step if steps else 0,
        total_steps=starts[-1].total_steps if starts else 0,
        loss=steps[-1].loss if steps else None,
        validation=evals[-1].loss if evals else None,
        verdicts=evaluation.verdicts if evaluation is not None else tuple(live.values()),
        headline=headline,
        change="none" if headline is None else _change(headline),
    )


def regions(service: Service, who: Visitor, job: JobRecord) -> dict[str, str]:
    """The pieces of a job's page that change while it is watched, as HTML by the id of their place."""
    summary = summarize(service, job)
    finish = jobs.estimated_finish(service, job)
    left = None if finish is None or summary.step == summary.total_steps else max(finish - time.time(), 1.0)
    events = [event for event in jobs.job_events(service, job) if event.type == "message"]
    evaluated = summary.headline is not None
    actions = [action for action, state in ACTIONS.items() if state in MOVES[job.status]]
    return {
        "job-state": part("job_state.html.j2", job=job),
        "job-figures": part("job_figures.html.j2", summary=summary, job=job, left=left),
        "job-actions": part("job_actions.html.j2", job=job, actions=actions, token=who.token, evaluated=evaluated),
        "job-verdicts": part("job_verdicts.html.j2", summary=summary, job=job),
        "job-results": part("job_results.html.j2", job=job, report=_report(service, job)),
        "job-events": part("job_events.html.j2", events=events),
    }


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


def read_evaluation(run: RunFolder) -> Evaluation | None:
    """The run's evaluation; None before there is one, or when it cannot be read (its page then says so)."""
    try:
        return _evaluation(run.evaluation, run.evaluation.stat().st_mtime_ns)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def hide_folders(service: Service, text: str) -> str:
    """`text` without the server's own folder, which is nobody's business."""
    return text.replace(f"{service.settings.data_dir.absolute()}/", "").replace(f"{service.settings.data_dir}/", "")


@lru_cache(maxsize=256)
def _evaluation(path: Path, _changed: int) -> Evaluation:
    return msgspec.json.decode(path.read_bytes(), type=Evaluation)


def _report(service: Service, job: JobRecord) -> str | None:
    """The run's report without a frame, once the job has ended; None when there is nothing to report."""
    run = jobs.job_folder(service, job).run
    if job.status not in TERMINAL or not run.spec.is_file():
        return None
    try:
        return hide_folders(service, run_part(run))
    except TunesmithError as error:
        return part("error_part.html.j2", message=hide_folders(service, str(error)))


def _file_name(service: Service, job: JobRecord) -> str:
    try:
        return service.store.get_file(job.owner, job.training_file).filename
    except RequestError:  # deleted since
        return job.training_file


def _change(metric: MetricComparison) -> str:
    if not metric.significant:
        return "none"
    return "good" if (metric.difference.value > 0) == (metric.better == "higher") else "bad"
