"""What a job leaves to its owner: the model under its name, and the step metrics as a CSV file."""

import contextlib
import csv
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tunesmith.run_folder import RunFolder
from tunesmith.server import files
from tunesmith.server.records import JobRecord
from tunesmith.server.settings import ServerSettings
from tunesmith.server.store import Store
from tunesmith.server.trainer import JobFolder
from tunesmith.training.events import EvalEvent, Event, StartEvent, StepEvent, parse_event

COLUMNS = ("step", "train_loss", "valid_loss", "learning_rate", "grad_norm", "tokens")


@dataclass(frozen=True)
class StepMetrics:
    """One optimizer step as it was logged; `time` is in Unix seconds, `valid_loss` None where nothing was validated.

    `measures` are what else the objective sees, by TRL's names: `reward`, `rewards/margins`, …
    """

    step: int
    total_steps: int
    time: float
    train_loss: float
    valid_loss: float | None
    learning_rate: float
    grad_norm: float
    tokens: int
    measures: Mapping[str, float]


def register(settings: ServerSettings, store: Store, job: JobRecord, folder: JobFolder, attempt: int) -> None:
    """Give the model its name and the job its end. Doing it again, after a crash in the middle, changes nothing."""
    model = model_name(job)
    result = f"file-{job.id.removeprefix('ftjob-')}"
    store.add_model(job.owner, model, base=base_name(job), job=job.id)
    files.add_result(
        settings, store, job.owner, file_id=result, filename="step_metrics.csv", data=metrics_csv(folder.run)
    )
    said = (f"New fine-tuned model created: {model}", "The job has successfully completed")
    ended = store.move_job(job.id, "succeeded", *said, of_attempt=attempt, fine_tuned_model=model, result_file=result)
    if not ended and store.job(job.id).status != "succeeded":  # cancelled at the last moment
        store.delete_model(job.owner, model)


def model_name(job: JobRecord) -> str:
    """`ft:base:org:suffix:id`, the suffix empty where none was asked for."""
    return f"ft:{base_name(job)}:{job.owner}:{job.suffix or ''}:{job.id.removeprefix('ftjob-')[:8]}"


def base_name(job: JobRecord) -> str:
    """The base model that a job goes back to, which may start from a model or checkpoint of another one."""
    parent = re.fullmatch(rf"ft:(.+):{job.owner}:[^:]*:[0-9a-f]{{8}}(:ckpt-step-\d+)?", job.model)
    return job.model if parent is None else parent[1]


def step_metrics(run: RunFolder) -> list[StepMetrics]:
    """The steps of a run so far, in order, those with a finite loss; empty before the first."""
    found: list[StepMetrics] = []
    now, total = 0.0, 0
    for event in read_events(run):
        match event:
            case StartEvent():
                now, total = event.time, event.total_steps
            case StepEvent() if math.isfinite(event.loss):
                now += event.seconds
                found.append(
                    StepMetrics(
                        event.step,
                        total,
                        now,
                        event.loss,
                        None,
                        event.learning_rate,
                        event.grad_norm,
                        event.tokens,
                        event.measures,
                    )
                )
            case EvalEvent() if math.isfinite(event.loss):
                now += event.seconds
                if found and found[-1].step == event.step:
                    found[-1] = replace(found[-1], valid_loss=event.loss)
            case _:
                pass
    return found


def read_events(run: RunFolder) -> list[Event]:
    """The run's event log; a line that is still being written, or was damaged, is left out: the others stay true."""
    if not run.events.is_file():
        return []
    events: list[Event] = []
    for line in run.events.read_bytes().split(b"\n")[:-1]:
        with contextlib.suppress(ValueError):
            events += parse_event(line)
    return events


def metrics_csv(run: RunFolder) -> bytes:
    """The steps as CSV, a row each."""
    text = io.StringIO()
    steps = step_metrics(run)
    measures = dict.fromkeys(name for step in steps for name in step.measures)
    writer = csv.DictWriter(text, (*COLUMNS, *measures), extrasaction="ignore")
    writer.writeheader()
    writer.writerows(vars(step) | dict(step.measures) for step in steps)  # the csv module writes None as nothing
    return text.getvalue().encode()
