"""`/v1/fine_tuning/jobs`: create, list, retrieve, cancel, pause, resume, events, checkpoints."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.server import jobs
from tunesmith.server.api.dependencies import After, AttemptOf, CallerOf, ServiceOf, audit
from tunesmith.server.api.pagination import cut_page, page_body
from tunesmith.server.errors import RequestError
from tunesmith.server.graders.data import Grader
from tunesmith.server.jobs import JobCheckpoint, JobEvent, JobRequest
from tunesmith.server.records import JobRecord
from tunesmith.server.service import Service

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning"])

Auto = Literal["auto"]

_TEXT = r"^[^\x00]*$"
"""PostgreSQL cannot look into JSON that holds the character 0."""

MetadataKey = Annotated[str, Field(max_length=64, pattern=_TEXT)]
MetadataValue = Annotated[str, Field(max_length=512, pattern=_TEXT)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Hyperparameters(_Body):
    """What every method has; `"auto"` leaves it to the planner."""

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=4096)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=100)] = "auto"


class DpoHyperparameters(Hyperparameters):
    """And what DPO has beside it."""

    beta: Auto | Annotated[float, Field(gt=0, le=10)] = "auto"


class ReinforcementHyperparameters(Hyperparameters):
    """And what reinforcement has; the compute multiplier scales the replies that are tried for each prompt."""

    compute_multiplier: Auto | Annotated[float, Field(gt=0, le=8)] = "auto"
    eval_interval: Auto | Annotated[int, Field(ge=1)] = "auto"


class SupervisedMethod(_Body):
    """`method.supervised`."""

    hyperparameters: Hyperparameters = Hyperparameters()


class DpoMethod(_Body):
    """`method.dpo`."""

    hyperparameters: DpoHyperparameters = DpoHyperparameters()


class ReinforcementMethod(_Body):
    """`method.reinforcement`."""

    grader: Grader
    hyperparameters: ReinforcementHyperparameters = ReinforcementHyperparameters()


class Method(_Body):
    """`method`: its type, and the section of that name."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None
    dpo: DpoMethod | None = None
    reinforcement: ReinforcementMethod | None = None


class JobBody(_Body):
    """A request for a job."""

    model: str = Field(max_length=512)
    training_file: str = Field(max_length=128)
    validation_file: Annotated[str, Field(max_length=128)] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(None, description="OpenAI's older place for them")
    suffix: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    metadata: dict[MetadataKey, MetadataValue] | None = Field(None, max_length=16)
    integrations: list[dict[str, Any]] | None = None


@router.post("", summary="Create a fine-tuning job")
def create(request: Request, service: ServiceOf, caller: CallerOf, attempt: AttemptOf, body: JobBody) -> dict[str, Any]:
    """Validate, plan, train, evaluate and register, in the background."""
    if body.integrations:
        raise RequestError("integrations: none are supported", code="unsupported_value", param="integrations")
    method, hyperparameters = _method(body)
    reinforcement = None if body.method is None else body.method.reinforcement
    job = jobs.create_job(
        service,
        caller.owner,
        JobRequest(
            model=body.model,
            training_file=body.training_file,
            validation_file=body.validation_file,
            method=method,
            hyperparameters=hyperparameters,
            grader=None if reinforcement is None else reinforcement.grader.model_dump(exclude_none=True),
            suffix=body.suffix or None,
            seed=body.seed,
            metadata=body.metadata or {},
        ),
        attempt,
    )
    audit(request, "job.create", job.id)
    return job_body(service, job)


@router.get("", summary="List fine-tuning jobs")
def list_jobs(
    request: Request,
    service: ServiceOf,
    caller: CallerOf,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """A page of the caller's jobs, newest first; `metadata[key]=value` keeps those that have it."""
    wanted = {
        key.removeprefix("metadata[").removesuffix("]"): value
        for key, value in request.query_params.items()
        if key.startswith("metadata[")
    }
    page = service.store.list_jobs(caller.owner, after=after, limit=limit, metadata=wanted)
    return page_body([job_body(service, job) for job in page.items], has_more=page.has_more)


@router.get("/{job_id}", summary="Retrieve a fine-tuning job")
def retrieve(service: ServiceOf, caller: CallerOf, job_id: str) -> dict[str, Any]:
    """One job."""
    return job_body(service, service.store.get_job(caller.owner, job_id))


@router.post("/{job_id}/cancel", summary="Cancel a job")
def cancel(request: Request, service: ServiceOf, caller: CallerOf, attempt: AttemptOf, job_id: str) -> dict[str, Any]:
    """Stop a job for good."""
    job = jobs.cancel_job(service, caller.owner, job_id, again=attempt.is_retry)
    audit(request, "job.cancel", job_id)
    return job_body(service, job)


@router.post("/{job_id}/pause", summary="Pause a job")
def pause(request: Request, service: ServiceOf, caller: CallerOf, attempt: AttemptOf, job_id: str) -> dict[str, Any]:
    """Stop a job with a checkpoint."""
    job = jobs.pause_job(service, caller.owner, job_id, again=attempt.is_retry)
    audit(request, "job.pause", job_id)
    return job_body(service, job)


@router.post("/{job_id}/resume", summary="Resume a paused job")
def resume(request: Request, service: ServiceOf, caller: CallerOf, attempt: AttemptOf, job_id: str) -> dict[str, Any]:
    """Go on from the checkpoint."""
    job = jobs.resume_job(service, caller.owner, job_id, again=attempt.is_retry)
    audit(request, "job.resume", job_id)
    return job_body(service, job)


@router.get("/{job_id}/events", summary="List a job's events")
def events(
    service: ServiceOf,
    caller: CallerOf,
    job_id: str,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """A page of what happened, newest first."""
    found = jobs.job_events(service, service.store.get_job(caller.owner, job_id))
    page, has_more = cut_page(found, after=after, limit=limit, id_of=lambda event: event.id)
    return page_body([_event_body(event) for event in page], has_more=has_more)


@router.get("/{job_id}/checkpoints", summary="List a job's checkpoints")
def checkpoints(
    service: ServiceOf,
    caller: CallerOf,
    job_id: str,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> dict[str, Any]:
    """A page of the states that were kept, newest first."""
    found = jobs.job_checkpoints(service, service.store.get_job(caller.owner, job_id))
    page, has_more = cut_page(found, after=after, limit=limit, id_of=lambda checkpoint: checkpoint.id)
    return page_body([_checkpoint_body(checkpoint, job_id) for checkpoint in page], has_more=has_more)


def job_body(service: Service, job: JobRecord) -> dict[str, Any]:
    """A job as the wire has it."""
    kind = job.method["type"]
    finish = jobs.estimated_finish(service, job)
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": int(job.created_at),
        "finished_at": None if job.finished_at is None else int(job.finished_at),
        "estimated_finish": None if finish is None else int(finish),
        "model": job.model,
        "fine_tuned_model": job.fine_tuned_model,
        "organization_id": f"org-{job.owner}",
        "status": job.status,
        "error": job.error,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": [] if job.result_file is None else [job.result_file],
        "trained_tokens": job.trained_tokens,
        "hyperparameters": {key: job.hyperparameters.get(key) for key in Hyperparameters.model_fields},
        "method": {"type": kind, kind: _method_body(job)},
        "seed": job.seed,
        "metadata": job.metadata,
        "integrations": [],
    }


def _method(body: JobBody) -> tuple[Literal["supervised", "dpo", "reinforcement"], dict[str, Any]]:
    """The method's type and its hyperparameters, from either place."""
    older = body.hyperparameters or Hyperparameters()
    if body.method is None:
        return "supervised", older.model_dump()
    kind = body.method.type
    for name in ("supervised", "dpo", "reinforcement"):
        if name != kind and getattr(body.method, name) is not None:
            raise RequestError(
                f"method.{name}: given, but method.type is {kind}", code="invalid_value", param=f"method.{name}"
            )
    if kind == "dpo":
        section = body.method.dpo or DpoMethod(hyperparameters=DpoHyperparameters(**older.model_dump()))
        return kind, section.hyperparameters.model_dump()
    if kind == "reinforcement" and body.method.reinforcement is not None:
        return kind, body.method.reinforcement.hyperparameters.model_dump()
    if kind == "supervised" and body.method.supervised is not None:
        return kind, body.method.supervised.hyperparameters.model_dump()
    return kind, older.model_dump()


def _method_body(job: JobRecord) -> dict[str, Any]:
    grader = job.method.get("grader")
    return {"hyperparameters": job.hyperparameters} | ({} if grader is None else {"grader": grader})


def _event_body(event: JobEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": int(event.created_at),
        "level": event.level,
        "message": event.message,
        "type": event.type,
        "data": dict(event.data),
    }


def _checkpoint_body(checkpoint: JobCheckpoint, job_id: str) -> dict[str, Any]:
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(checkpoint.created_at),
        "fine_tuned_model_checkpoint": checkpoint.model,
        "fine_tuning_job_id": job_id,
        "step_number": checkpoint.step,
        "metrics": {
            "step": checkpoint.step,
            "train_loss": checkpoint.train_loss,
            "full_valid_loss": checkpoint.valid_loss,
        },
    }
