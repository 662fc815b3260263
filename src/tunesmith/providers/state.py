"""`provider.json`: which job trains this run, so that a watch that was interrupted goes on. No key is ever in it."""

import msgspec
from msgspec import Struct

from tunesmith import storage
from tunesmith.errors import RunError
from tunesmith.providers.protocol import Job
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
