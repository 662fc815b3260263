"""Fine-tuning jobs as their owners deal with them: create, look at, pause, resume, cancel.

Plain functions of the service, without HTTP: the API and the dashboard both call these.
"""

import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from tunesmith.errors import MissingDependencyError
from tunesmith.server.catalogue import CHECKPOINT
from tunesmith.server.errors import RequestError
from tunesmith.server.files import PURPOSE
from tunesmith.server.graders.data import (
    Grader,
    PythonGrader,
    ScoreModelGrader,
    TextSimilarityGrader,
    parts,
    read_grader,
)
from tunesmith.server.graders.similarity import check_metric
from tunesmith.server.job_results import model_name, step_metrics
from tunesmith.server.records import JobRecord
from tunesmith.server.repeats import Attempt
from tunesmith.server.service import Service
from tunesmith.server.settings import ServerSettings
from tunesmith.server.states import JobStatus
from tunesmith.server.trainer import JobFolder

RATE_STEPS = 20
"""Latest steps that an estimate of the end rests on."""

_CREATING = threading.Lock()
"""So that of two sendings of one request at once, the second finds what the first has made."""

_SUFFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class JobRequest:
    """What a job asks for. `hyperparameters` are OpenAI's, each a number or `"auto"`; reinforcement has a `grader`."""

    model: str
    training_file: str
    validation_file: str | None = None
    method: Literal["supervised", "dpo", "reinforcement"] = "supervised"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    grader: Mapping[str, Any] | None = None
    suffix: str | None = None
    seed: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JobEvent:
    """Something that happened: a message, or the metrics of a step."""

    id: str
    created_at: float
    level: str
    message: str
    type: Literal["message", "metrics"]
    data: Mapping[str, Any]


@dataclass(frozen=True)
class JobCheckpoint:
    """A state of the model that was kept; losses in nats per token."""

    id: str
    created_at: float
    step: int
    model: str
    train_loss: float | None
    valid_loss: float | None


def create_job(service: Service, owner: str, request: JobRequest, attempt: Attempt | None = None) -> JobRecord:
    """Accept a job; its files are validated and its run planned in the background. Raises RequestError.

    An `attempt` that repeats one whose job is there already gets that job.
    """
    attempt = attempt or Attempt(owner)
    digest = attempt.digest(repr(request))
    with _CREATING:
        job = _made_before(service, attempt, digest) or _add_job(service, owner, request, digest)
    if job.status == "validating_files":
        service.runner.submit(job)
    return job


def _made_before(service: Service, attempt: Attempt, digest: str) -> JobRecord | None:
    """The job that an earlier sending made; a retry without a key does not mean one that has failed since."""
    job_id = service.store.find_made(digest, within_seconds=attempt.remembered_seconds)
    job = None if job_id is None else service.store.job(job_id)
    return None if job is not None and attempt.key is None and job.status in ("failed", "cancelled") else job


def _add_job(service: Service, owner: str, request: JobRequest, digest: str) -> JobRecord:
    service.catalogue.trainable(owner, request.model)
    if (request.method == "reinforcement") != (request.grader is not None):
        raise RequestError(
            "method.reinforcement: a grader is required, and only there",
            code="missing_required_parameter",
            param="method.reinforcement",
        )
    if request.grader is not None:
        grader = read_grader(msgspec.json.encode(request.grader))
        check_grader(service.settings, grader, param="method.reinforcement.grader")
    for param, file_id in (("training_file", request.training_file), ("validation_file", request.validation_file)):
        if file_id is not None:
            _check_file(service, owner, param, file_id)
    if request.suffix is not None and not _SUFFIX.fullmatch(request.suffix):
        raise RequestError(
            "suffix: use up to 64 letters, digits, dots, hyphens and underscores, beginning with a letter or digit",
            code="invalid_value",
            param="suffix",
        )
    return service.store.add_job(
        owner,
        request=digest,
        model=request.model,
        training_file=request.training_file,
        validation_file=request.validation_file,
        suffix=request.suffix,
        seed=secrets.randbelow(2**31) if request.seed is None else request.seed,
        method={"type": request.method} | ({} if request.grader is None else {"grader": dict(request.grader)}),
        hyperparameters=dict(request.hyperparameters),
        metadata=dict(request.metadata),
    )


def check_grader(settings: ServerSettings, grader: Grader, *, param: str) -> None:
    """Refuse a grader that this server does not run. Raises RequestError."""
    for one in parts(grader):
        problem = None
        if isinstance(one, PythonGrader) and not settings.python_graders:
            problem = "graders of type python run a client's code; this server was not started with --python-graders"
        if isinstance(one, ScoreModelGrader) and settings.grader_url is None:
            problem = "graders of type score_model ask another model; this server was not started with --grader-url"
        if isinstance(one, TextSimilarityGrader):
            try:
                check_metric(one.evaluation_metric)
            except MissingDependencyError as error:
                problem = str(error)
        if problem is not None:
            raise RequestError(f"grader {one.name}: {problem}", code="unsupported_grader", param=param)


def cancel_job(service: Service, owner: str, job_id: str, *, again: bool = False) -> JobRecord:
    """Cancel a job that has not ended; its trainer stops after the step under way. Raises RequestError 404 or 409.

    Here and below, a request that is sent `again` does not fail on what its first sending has done.
    """
    job = _move(service, owner, job_id, "cancelled", "cancel", "Fine-tuning job was cancelled", again=again)
    job_folder(service, job).drop_base()
    return job


def pause_job(service: Service, owner: str, job_id: str, *, again: bool = False) -> JobRecord:
    """Pause a queued or running job; its trainer keeps a checkpoint. Raises RequestError 404 or 409."""
    return _move(service, owner, job_id, "paused", "pause", "Fine-tuning job was paused", again=again)


def resume_job(service: Service, owner: str, job_id: str, *, again: bool = False) -> JobRecord:
    """Queue a paused job again; it goes on from its checkpoint. Raises RequestError 404 or 409."""
    before = service.store.get_job(owner, job_id)
    if again and before.attempt > 1 and before.status in ("queued", "running"):
        return before
    if before.status != "paused":  # a job whose files are being checked becomes queued too, but by itself
        raise _refused("resume", before)
    job = _move(service, owner, job_id, "queued", "resume", "Fine-tuning job was resumed", attempt=before.attempt + 1)
    service.runner.submit(job)
    return job


def job_folder(service: Service, job: JobRecord) -> JobFolder:
    """The folder that a job works in."""
    return JobFolder(service.settings.jobs_dir / job.id)


def job_events(service: Service, job: JobRecord) -> list[JobEvent]:
    """All events of a job, newest first: messages from the store, metrics from the run's own log."""
    messages = [
        JobEvent(event.id, event.created_at, event.level, event.message, "message", {})
        for event in service.store.events(job.id)
    ]
    short = job.id.removeprefix("ftjob-")
    metrics = [
        JobEvent(
            f"ftevent-{short}-step-{step.step}",
            step.time,
            "info",
            _step_message(step.step, step.total_steps, step.train_loss, step.valid_loss),
            "metrics",
            {
                "step": step.step,
                "total_steps": step.total_steps,
                "train_loss": step.train_loss,
                "valid_loss": step.valid_loss,
                "learning_rate": step.learning_rate,
                **step.measures,
            },
        )
        for step in step_metrics(job_folder(service, job).run)
    ]
    return sorted([*messages, *metrics], key=lambda event: event.created_at)[::-1]  # what is as old stays in order


def job_checkpoints(service: Service, job: JobRecord) -> list[JobCheckpoint]:
    """The checkpoints of a job, newest first."""
    run = job_folder(service, job).run
    by_step = {step.step: step for step in step_metrics(run)}
    found = []
    for path in run.checkpoints.glob("step-*"):
        number = path.name.removeprefix("step-")
        if number.isdigit():
            step = by_step.get(int(number))
            found.append(
                JobCheckpoint(
                    id=f"ftckpt-{job.id.removeprefix('ftjob-')}-{number}",
                    created_at=path.stat().st_mtime,
                    step=int(number),
                    model=checkpoint_model(job, int(number)),
                    train_loss=None if step is None else step.train_loss,
                    valid_loss=None if step is None else step.valid_loss,
                )
            )
    return sorted(found, key=lambda checkpoint: checkpoint.step, reverse=True)


def estimated_finish(service: Service, job: JobRecord) -> float | None:
    """When a running job should end, in Unix seconds, from the rate of its latest steps; None before there is any."""
    if job.status != "running":
        return None
    steps = step_metrics(job_folder(service, job).run)[-RATE_STEPS:]
    if len(steps) < 2:
        return None
    seconds = (steps[-1].time - steps[0].time) / (len(steps) - 1)
    return time.time() + seconds * (steps[-1].total_steps - steps[-1].step)


def checkpoint_model(job: JobRecord, step: int) -> str:
    """The model name of a checkpoint, as OpenAI forms it."""
    return f"{model_name(job)}{CHECKPOINT}{step}"


def _check_file(service: Service, owner: str, param: str, file_id: str) -> None:
    try:
        record = service.store.get_file(owner, file_id)
    except RequestError as error:
        raise RequestError(f"{param}: no such file: {file_id}", code="file_not_found", param=param) from error
    if record.purpose != PURPOSE:
        raise RequestError(
            f"{param}: {file_id} has purpose {record.purpose}; upload it with purpose {PURPOSE}",
            code="invalid_file_purpose",
            param=param,
        )


def _move(
    service: Service,
    owner: str,
    job_id: str,
    to: JobStatus,
    verb: str,
    message: str,
    *,
    again: bool = False,
    **changes: Any,
) -> JobRecord:
    job = service.store.get_job(owner, job_id)
    if again and job.status == to:
        return job
    if not service.store.move_job(job.id, to, message, **changes):
        raise _refused(verb, service.store.get_job(owner, job_id))
    return service.store.get_job(owner, job_id)


def _refused(verb: str, job: JobRecord) -> RequestError:
    return RequestError(
        f"Cannot {verb} job {job.id}: it is {job.status}", status=409, code="invalid_job_state", param="id"
    )


def _step_message(step: int, total: int, train_loss: float, valid_loss: float | None) -> str:
    validation = "" if valid_loss is None else f", validation loss={valid_loss:.4f}"
    return f"Step {step}/{total}: training loss={train_loss:.4f}{validation}"
