"""`provider.json`: which job trains this run, so that a watch that was interrupted goes on; before it there is
`provider/request.json`: what was asked, so that a submit that was interrupted buys nothing twice. No key is in them.
"""

from pathlib import Path

import msgspec
from msgspec import Struct

from tunesmith import storage
from tunesmith.errors import RunError
from tunesmith.providers.protocol import Job, JobRequest
from tunesmith.run_folder import RunFolder


class ProviderState(Struct, frozen=True):
    """Where the job is, and how much of its events `events.jsonl` holds.

    `provider` is what `--provider` was given. A crash may leave more than `events_bytes` in the log: the rest is cut
    off when the watch resumes, so that no event is missing and none is there twice.
    """

    provider: str
    job: Job
    training_file: str
    validation_file: str | None
    seen: tuple[str, ...] = ()
    events_bytes: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    last_step: int = 0


class Begun(Struct, frozen=True):
    """A request about to be sent to `provider`, for the run of `spec` (its YAML)."""

    provider: str
    spec: str
    request: JobRequest


def begun_file(run: RunFolder) -> Path:
    """Where the request is written down."""
    return run.root / "provider" / "request.json"


def read_begun(run: RunFolder) -> Begun | None:
    """The request that a submit before this one has written down, if it came that far. Raises RunError."""
    try:
        return msgspec.json.decode(begun_file(run).read_bytes(), type=Begun)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise RunError(f"{begun_file(run)}: not a request ({error}); remove it") from error


def write_begun(run: RunFolder, begun: Begun) -> None:
    """Write a request down."""
    storage.write_bytes(begun_file(run), msgspec.json.format(msgspec.json.encode(begun), indent=2) + b"\n")


def read_state(run: RunFolder) -> ProviderState:
    """The run's job. Raises RunError when no job was submitted from this folder."""
    if not run.provider.is_file():
        raise RunError(f"{run.root}: no job was submitted from this run folder; start one with: tunesmith jobs submit")
    try:
        return msgspec.json.decode(run.provider.read_bytes(), type=ProviderState)
    except msgspec.DecodeError as error:
        raise RunError(f"{run.provider}: not a provider's job ({error}); submit the run again") from error


def write_state(run: RunFolder, state: ProviderState) -> None:
    """Write the run's job."""
    storage.write_bytes(run.provider, msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")
