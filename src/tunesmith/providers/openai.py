"""OpenAI's fine-tuning through its official SDK: also any server that speaks its wire, Tunesmith's own included."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tunesmith import storage
from tunesmith.errors import MissingDependencyError, SpecError
from tunesmith.providers.protocol import Job, JobEvent, JobRequest, Quote, Rules, Status, Turns
from tunesmith.providers.sdk_errors import sdk_errors

if TYPE_CHECKING:
    from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

OPENAI_URL = "https://api.openai.com/v1"

RETRIES = 5
"""Of a request that failed for a passing reason; the SDK waits twice as long before each, up to 8 seconds."""

LARGEST_FILE = 512 * 2**20
MINIMUM_ROWS = 10
EXAMPLE_TOKENS = (("gpt-3.5", 16_385), ("gpt-4o", 65_536), ("gpt-4.1", 65_536))
"""By the beginning of the model's name. https://platform.openai.com/docs/guides/supervised-fine-tuning, 2025-11."""

METADATA_KEY = "tunesmith_request"
"""The key of a job's metadata that holds the token of its request."""

_STATES: dict[str, Status] = {
    "validating_files": "queued",
    "queued": "queued",
    "running": "running",
    "paused": "paused",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}
_T = TypeVar("_T")


class OpenAI:
    """A `Provider`: OpenAI itself, or the compatible server at `base_url`, which may want no key."""

    def __init__(self, *, name: str, base_url: str, key: str | None, key_variable: str) -> None:
        try:
            import openai
        except ImportError as error:
            raise MissingDependencyError(
                f"--provider {name}: the openai package is missing; pip install 'tunesmith[providers]'"
            ) from error
        self.name, self.base_url, self._key_variable = name, base_url, key_variable
        self._api_error = openai.APIError
        # A server on one's own machine may want no key; the SDK insists on some text.
        self._client = openai.OpenAI(base_url=base_url, api_key=key or "none", max_retries=RETRIES)

    def rules(self, model: str) -> Rules:
        """What OpenAI asks of data; a compatible server is held to the same."""
        limit = next((tokens for start, tokens in EXAMPLE_TOKENS if model.startswith(start)), None)
        return Rules(
            name=self.name,
            minimum_rows=MINIMUM_ROWS,
            largest_file=LARGEST_FILE,
            example_tokens=limit,
            roles=("system", "developer", "user", "assistant", "tool"),
            source="https://platform.openai.com/docs/guides/supervised-fine-tuning",
        )

    def find_file(self, name: str, size: int) -> str | None:
        """The id of the file of that name and size, if it was uploaded before."""

        def find() -> str | None:
            files = self._client.files.list(purpose="fine-tune")
            return next((file.id for file in files if file.filename == name and file.bytes == size), None)

        return self._call(find)

    def upload(self, path: Path) -> str:
        """Upload `path` for fine-tuning and return its id."""

        def upload() -> str:
            with path.open("rb") as file:
                return self._client.files.create(file=file, purpose="fine-tune").id

        return self._call(upload)

    def quote(self, request: JobRequest) -> Quote | None:
        """None: OpenAI names no price before the job has run."""
        return None

    def create(self, request: JobRequest) -> Job:
        """Start the job. The learning rate is OpenAI's own choice: it takes a multiplier of a rate it does not tell."""
        if request.lora is None and self.base_url == OPENAI_URL:
            raise SpecError("adapter.kind full: OpenAI does not train all parameters; use adapter.kind: lora")
        hyperparameters: dict[str, Any] = {"n_epochs": request.epochs, "batch_size": request.batch_size}
        if request.beta is not None:
            hyperparameters["beta"] = request.beta
        method = {"type": request.method, request.method: {"hyperparameters": hyperparameters}}

        def create() -> "FineTuningJob":
            return self._client.fine_tuning.jobs.create(
                model=request.model,
                training_file=request.training_file,
                validation_file=request.validation_file,
                suffix=request.suffix,
                seed=request.seed,
                method=method,  # type: ignore[arg-type]  # a dict by the method's name is not a TypedDict to mypy
                metadata={METADATA_KEY: request.token},
                extra_headers={"Idempotency-Key": request.token},
            )

        return _job(self._call(create))

    def find_job(self, request: JobRequest) -> Job | None:
        """The job that carries the request's token in its metadata."""

        def find() -> "FineTuningJob | None":
            jobs = self._client.fine_tuning.jobs.list(limit=100, metadata={METADATA_KEY: request.token})
            # A compatible server may not know the filter.
            return next((job for job in jobs if (job.metadata or {}).get(METADATA_KEY) == request.token), None)

        job = self._call(find)
        return None if job is None else _job(job)

    def retrieve(self, job: str) -> Job:
        """How the job stands."""
        return _job(self._call(lambda: self._client.fine_tuning.jobs.retrieve(job)))

    def events(self, job: str) -> list[JobEvent]:
        """Its events, oldest first; the wire gives them newest first, by pages."""
        events = self._call(lambda: list(self._client.fine_tuning.jobs.list_events(job, limit=100)))
        return [_event(event) for event in reversed(events)]

    def jobs(self) -> list[Job]:
        """The account's jobs, newest first."""
        return [_job(job) for job in self._call(lambda: list(self._client.fine_tuning.jobs.list(limit=100)))]

    def cancel(self, job: str) -> Job:
        """Stop the job."""
        return _job(self._call(lambda: self._client.fine_tuning.jobs.cancel(job)))

    def download(self, job: str, folder: Path) -> list[Path]:
        """Write the job's result files (the metrics of every step, as CSV); OpenAI gives out no weights."""
        written = []
        for file in self._call(lambda: self._client.fine_tuning.jobs.retrieve(job)).result_files:
            content = self._content(file)
            # The id is the provider's word: it names a file only after everything but plain characters is gone.
            name = "".join(character for character in file if character.isalnum() or character in "-_")
            target = folder / f"{name}.csv"
            storage.write_bytes(target, content)
            written.append(target)
        return written

    def complete(self, model: str, turns: Turns, *, max_tokens: int) -> str:
        """The model's reply at temperature 0."""
        answer = self._call(
            lambda: self._client.chat.completions.create(
                model=model,
                messages=turns,  # type: ignore[arg-type]  # rows are plain dicts
                temperature=0,
                max_tokens=max_tokens,
            )
        )
        return (answer.choices[0].message.content or "").strip() if answer.choices else ""

    def _content(self, file: str) -> bytes:
        return self._call(lambda: self._client.files.content(file).read())

    def _call(self, request: Callable[[], _T]) -> _T:
        with sdk_errors(self.name, self.base_url, self._key_variable, self._api_error):
            return request()


def _job(job: "FineTuningJob") -> Job:
    error = job.error.message if job.error is not None else None
    return Job(
        id=job.id,
        status=_STATES.get(job.status, "running"),
        model=job.model,
        created=float(job.created_at),
        tuned_model=job.fine_tuned_model,
        trained_tokens=job.trained_tokens,
        finish=None if job.estimated_finish is None else float(job.estimated_finish),
        error=error or None,
    )


def _event(event: "FineTuningJobEvent") -> JobEvent:
    data: dict[str, Any] = event.data if event.type == "metrics" and isinstance(event.data, dict) else {}
    return JobEvent(
        id=event.id,
        time=float(event.created_at),
        level=event.level,
        message=event.message,
        step=data.get("step"),
        loss=data.get("train_loss"),
        # The loss over the whole validation file where there is one, rather than that of one batch of it.
        validation_loss=data.get("full_valid_loss", data.get("valid_loss")),
    )
