"""What the store keeps, as plain values: one type for the rows of each table of `schema`."""

from dataclasses import dataclass
from typing import Any

from tunesmith.server.states import JobStatus


@dataclass(frozen=True)
class KeyRecord:
    """An API key as it is kept: a salted digest, never the key."""

    id: str
    owner: str
    salt: str
    digest: str
    created_at: float
    revoked_at: float | None


@dataclass(frozen=True)
class FileRecord:
    """An upload or a result; `stored_as` is its name inside the files folder, made by us and never by a client."""

    seq: int
    id: str
    owner: str
    filename: str
    purpose: str
    bytes: int
    stored_as: str
    created_at: float


@dataclass(frozen=True)
class JobRecord:
    """A fine-tuning job. `method` is as asked for; `hyperparameters` are as planned once the files are validated.

    `attempt` counts resumptions after a pause: it names the workflow that may act for the job.
    """

    seq: int
    id: str
    owner: str
    status: JobStatus
    attempt: int
    created_at: float
    finished_at: float | None
    model: str
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int
    method: dict[str, Any]
    hyperparameters: dict[str, Any]
    metadata: dict[str, str]
    error: dict[str, str | None] | None
    fine_tuned_model: str | None
    trained_tokens: int | None
    result_file: str | None


@dataclass(frozen=True)
class EventRecord:
    """Something that happened to a job, in words."""

    seq: int
    id: str
    job: str
    created_at: float
    level: str
    message: str


@dataclass(frozen=True)
class PermissionRecord:
    """That the keys of `project`, an owner, may use `owner`'s fine-tuned model or checkpoint."""

    seq: int
    id: str
    owner: str
    model: str
    project: str
    created_at: float


@dataclass(frozen=True)
class ModelRecord:
    """A fine-tuned model; its weights are in the folder of its `job`."""

    id: str
    owner: str
    base: str
    job: str
    created_at: float
