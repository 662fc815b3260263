"""What a provider of hosted fine-tuning does, and the plain values that go in and out.

The official SDKs differ in names, states and shapes; each is hidden in one file (`openai.py`, `together.py`), and the
rest of the folder knows only what stands here.
"""

from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from msgspec import Struct

Status: TypeAlias = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]

ENDED: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})
"""States that a job does not leave."""

Turns: TypeAlias = list[dict[str, Any]]
"""Messages in OpenAI's form."""


class Rules(Struct, frozen=True):
    """What a provider asks of training data; `source` is where it says so.

    `example_tokens` is the length beyond which it cuts a row, None where it is not known. `keys` are those that a row
    may have beside its messages.
    """

    name: str
    minimum_rows: int
    largest_file: int
    example_tokens: int | None
    roles: tuple[str, ...]
    source: str


class JobRequest(Struct, frozen=True):
    """A job as the run spec asks for it; `training_file` and `validation_file` are the provider's file ids.

    `token` is the request's own, drawn at `begun` (a Unix time), by which a job can be found whose answer was lost.
    """

    token: str
    begun: float

    model: str
    training_file: str
    validation_file: str | None
    suffix: str
    seed: int
    method: Literal["supervised", "dpo"]
    epochs: int
    batch_size: int
    learning_rate: float
    scheduler: str
    warmup: float
    weight_decay: float
    max_grad_norm: float
    max_length: int
    lora: "Lora | None"
    beta: float | None


class Lora(Struct, frozen=True):
    """The adapter to train; None in a request means all parameters."""

    r: int
    alpha: float
    dropout: float
    targets: str | tuple[str, ...]


class Quote(Struct, frozen=True):
    """What the provider itself says the job will cost, and whether the account may start it."""

    usd: float
    allowed: bool


class Job(Struct, frozen=True):
    """A job as the provider last described it. `tuned_model` is its result's name; `finish` a Unix time, estimated."""

    id: str
    status: Status
    model: str
    created: float
    tuned_model: str | None = None
    trained_tokens: int | None = None
    finish: float | None = None
    error: str | None = None


class JobEvent(Struct, frozen=True):
    """Something that happened: a message, or the metrics of a step (losses in nats per token); `id` is never reused."""

    id: str
    time: float
    level: str
    message: str
    step: int | None = None
    loss: float | None = None
    validation_loss: float | None = None


class Provider(Protocol):
    """One provider, with its key. Every method raises ProviderError, saying how to mend it, when the call fails."""

    name: str
    base_url: str

    def rules(self, model: str) -> Rules:
        """What it asks of data for `model`."""

    def find_file(self, name: str, size: int) -> str | None:
        """The id of a file uploaded before under this name and of this many bytes, if it has one."""

    def upload(self, path: Path) -> str:
        """Upload a training file and return its id once it can be used."""

    def quote(self, request: JobRequest) -> Quote | None:
        """Its own price for the job, where it gives one before the start."""

    def create(self, request: JobRequest) -> Job:
        """Start the job. Raises SpecError when the provider cannot do what the request asks."""

    def find_job(self, request: JobRequest) -> Job | None:
        """The job that `create` has started for this very request, if it did."""

    def retrieve(self, job: str) -> Job:
        """How the job stands."""

    def events(self, job: str) -> list[JobEvent]:
        """Everything that has happened to it, oldest first."""

    def jobs(self) -> list[Job]:
        """The account's jobs, newest first."""

    def cancel(self, job: str) -> Job:
        """Stop the job."""

    def download(self, job: str, folder: Path) -> list[Path]:
        """Write what the provider gives out of a finished job (metrics, or weights) into `folder`."""

    def complete(self, model: str, turns: Turns, *, max_tokens: int) -> str:
        """The model's reply to `turns`, as deterministic as the provider can be."""
