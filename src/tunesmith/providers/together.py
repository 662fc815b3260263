"""Together's fine-tuning through its official SDK."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from tunesmith import storage
from tunesmith.errors import MissingDependencyError, ProviderError, SpecError
from tunesmith.providers.openai import RETRIES
from tunesmith.providers.protocol import Job, JobEvent, JobRequest, Quote, Rules, Status, Turns
from tunesmith.providers.sdk_errors import sdk_errors

TOGETHER_URL = "https://api.together.xyz/v1"

LARGEST_FILE = int(50.1 * 2**30)
"""The SDK's own limit (`together.lib.constants.MAX_FILE_SIZE_GB`)."""

_STATES: dict[str, Status] = {
    "pending": "queued",
    "queued": "queued",
    "completed": "succeeded",
    "error": "failed",
    "user_error": "failed",
    "cancelled": "cancelled",
}
"""Of the job's own states; all others mean that it is being worked on."""

_SCHEDULERS: dict[str, Literal["cosine", "linear"]] = {"cosine": "cosine", "linear": "linear"}

CLOCK_SECONDS = 600.0
"""By how much Together's clock may be behind ours."""

_FILE_SECONDS = 600.0
"""Together checks a file after its upload; longer than this it has not taken."""

_T = TypeVar("_T")


class Together:
    """A `Provider`."""

    def __init__(self, *, base_url: str, key: str, key_variable: str, poll_seconds: float = 5.0) -> None:
        try:
            import together
        except ImportError as error:
            raise MissingDependencyError(
                "--provider together: the together package is missing; pip install 'tunesmith[providers]'"
            ) from error
        self.name, self.base_url, self._key_variable = "together", base_url, key_variable
        self._api_error = together.APIError
        self._poll_seconds = poll_seconds
        # The SDK's paths begin with /v1 themselves.
        self._client = together.Together(base_url=base_url.removesuffix("/v1"), api_key=key, max_retries=RETRIES)

    def rules(self, model: str) -> Rules:
        """What Together asks of data; its SDK's own check of the file comes on top, at the upload."""
        limits = self._call(lambda: self._client.fine_tuning.model_limits(model_name=model))
        return Rules(
            name=self.name,
            minimum_rows=1,
            largest_file=LARGEST_FILE,
            example_tokens=limits.max_seq_length_sft,
            roles=("system", "user", "assistant", "tool"),
            source="https://docs.together.ai/docs/fine-tuning-data-preparation",
        )

    def find_file(self, name: str, size: int) -> str | None:
        """The id of the file of that name and size, if it was uploaded before."""
        files = self._call(lambda: self._client.files.list()).data
        return next((file.id for file in files if file.filename == name and file.bytes == size), None)

    def upload(self, path: Path) -> str:
        """Upload `path`, wait until Together has checked it, and return its id."""
        from together.lib.utils.files import check_file

        report = check_file(path, purpose="fine-tune")
        if not report["is_check_passed"]:
            raise SpecError(f"{path}: together's own check refuses it: {' '.join(str(report['message']).split())}")
        file = self._call(lambda: self._client.files.upload(path, purpose="fine-tune", check=False))
        self._wait_until_checked(file.id)
        return file.id

    def quote(self, request: JobRequest) -> Quote | None:
        """Together's estimate of the price in dollars."""
        import together

        estimate = self._call(
            lambda: self._client.fine_tuning.estimate_price(
                training_file=request.training_file,
                validation_file=together.omit if request.validation_file is None else request.validation_file,
                model=request.model,
                n_epochs=request.epochs,
            )
        )
        if not estimate.estimation_available or estimate.estimated_total_price is None:
            return None
        return Quote(estimate.estimated_total_price, allowed=estimate.allowed_to_proceed is not False)

    def create(self, request: JobRequest) -> Job:
        """Start the job, with the spec's hyperparameters as they are."""
        scheduler: Literal["cosine", "linear"] | None = _SCHEDULERS.get(request.scheduler)
        if scheduler is None:
            raise SpecError(f"training.scheduler {request.scheduler}: together knows only {' and '.join(_SCHEDULERS)}")
        options: dict[str, Any] = {"lora": request.lora is not None}
        if request.lora is not None:
            targets = request.lora.targets
            options |= {
                "lora_r": request.lora.r,
                "lora_alpha": request.lora.alpha,
                "lora_dropout": request.lora.dropout,
                "lora_trainable_modules": targets if isinstance(targets, str) else ",".join(targets),
            }
        if request.validation_file is not None:
            options |= {"validation_file": request.validation_file, "n_evals": request.epochs}
        if request.method == "dpo":
            options |= {"training_method": "dpo", "dpo_beta": request.beta}

        def create() -> str:
            job = self._client.fine_tuning.create(
                model=request.model,
                training_file=request.training_file,
                suffix=request.suffix,
                random_seed=request.seed,
                n_epochs=request.epochs,
                batch_size=request.batch_size,
                learning_rate=request.learning_rate,
                lr_scheduler_type=scheduler,
                warmup_ratio=request.warmup,
                weight_decay=request.weight_decay,
                max_grad_norm=request.max_grad_norm,
                max_seq_length=request.max_length,
                **options,
            )
            return job.id

        try:
            return self.retrieve(self._call(create))
        except ValueError as error:  # the SDK compares the request with the model's limits
            raise SpecError(f"together: {' '.join(str(error).split())}") from error

    def find_job(self, request: JobRequest) -> Job | None:
        """The newest job on the request's file with its suffix and seed that is no older than the request.

        Together keeps no word of ours with a job.
        """
        started = [
            job
            for job in self._call(lambda: self._client.fine_tuning.list()).data
            if (job.training_file, job.suffix) == (request.training_file, request.suffix)
            and job.random_seed in (None, request.seed)
            and job.created_at.timestamp() >= request.begun - CLOCK_SECONDS
        ]
        newest = max(started, key=lambda job: job.created_at, default=None)
        return None if newest is None else self.retrieve(newest.id)

    def retrieve(self, job: str) -> Job:
        """How the job stands."""
        return _job(self._call(lambda: self._client.fine_tuning.retrieve(job)))

    def events(self, job: str) -> list[JobEvent]:
        """Its events and the metrics of its steps, oldest first."""
        told = self._call(lambda: self._client.fine_tuning.list_events(job)).data
        events = [
            JobEvent(
                id=f"{event.created_at} {event.type} {event.message}",
                time=_timestamp(event.created_at),
                level=(event.level or "info").lower().removeprefix("legacy_i"),
                message=event.message,
            )
            for event in told
        ]
        metrics = self._call(lambda: self._client.fine_tuning.list_metrics(job)).metrics or []
        started = min((event.time for event in events), default=0.0)
        events += [_metrics(values, started) for values in metrics]
        return sorted(events, key=lambda event: (event.time, event.step or 0))

    def jobs(self) -> list[Job]:
        """The account's jobs, newest first."""
        jobs = [_job(job) for job in self._call(lambda: self._client.fine_tuning.list()).data]
        return sorted(jobs, key=lambda job: -job.created)

    def cancel(self, job: str) -> Job:
        """Stop the job."""
        return _job(self._call(lambda: self._client.fine_tuning.cancel(job)))

    def download(self, job: str, folder: Path) -> list[Path]:
        """Write the trained adapter, as the archive that Together gives out."""
        content = self._call(lambda: self._client.fine_tuning.content(ft_id=job, checkpoint="adapter").read())
        target = folder / "adapter.tar.zst"
        storage.write_bytes(target, content)
        return [target]

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
        content = answer.choices[0].message.content if answer.choices and answer.choices[0].message else None
        return str(content or "").strip()

    def _wait_until_checked(self, file: str) -> None:
        until = time.monotonic() + _FILE_SECONDS
        while True:
            found = self._call(lambda: self._client.files.retrieve(file))
            if found.processing_status in (None, "COMPLETED"):
                return
            if found.processing_status in ("FAILED", "INVALID_FORMAT"):
                reason = found.validation_report.error if found.validation_report else None
                raise ProviderError(f"together: the uploaded file is not usable ({reason or found.processing_status})")
            if time.monotonic() > until:
                raise ProviderError(
                    "together: the uploaded file has not been checked for ten minutes; submit again later"
                )
            time.sleep(self._poll_seconds)

    def _call(self, request: Callable[[], _T]) -> _T:
        with sdk_errors(self.name, self.base_url, self._key_variable, self._api_error):
            return request()


def _job(job: Any) -> Job:
    """A job from any of the SDK's shapes of it."""
    status = _STATES.get(str(job.status), "running")
    created = job.created_at
    errors = [event.message for event in job.events or [] if "ERROR" in str(event.type).upper()]
    progress = getattr(job, "progress", None)
    remaining = progress.seconds_remaining if progress is not None and progress.estimate_available else None
    return Job(
        id=job.id,
        status=status,
        model=job.model or "",
        created=created.timestamp() if created is not None else 0.0,
        tuned_model=job.x_model_output_name if status == "succeeded" else None,
        trained_tokens=job.token_count,
        finish=None if remaining is None else time.time() + remaining,
        error=errors[-1] if errors and status == "failed" else None,
    )


def _metrics(values: dict[str, float], started: float) -> JobEvent:
    """The metrics of one step; their names carry the part that measured them."""

    def first(*names: str) -> float | None:
        return next((values[name] for name in names if values.get(name) is not None), None)

    step = first("step", "train/global_step", "global_step")
    return JobEvent(
        id=f"metrics {step} {sorted(values)}",
        time=first("timestamp", "created_at") or started,
        level="info",
        message="metrics",
        step=None if step is None else int(step),
        loss=first("train/loss", "train_loss", "loss"),
        validation_loss=first("eval/loss", "eval_loss", "validation_loss"),
    )


def _timestamp(text: str) -> float:
    import datetime

    return datetime.datetime.fromisoformat(text).timestamp()
