"""`jobs watch`: follow a job to its end, its events in the run's `events.jsonl` as if it were trained here.

What was seen is written down after every round, so a watch that was interrupted goes on without a gap or a repeat. A
provider that cannot be reached is asked again, ever more slowly, for about a quarter of an hour.
"""

import time
from collections.abc import Callable

import msgspec

from tunesmith.errors import ProviderUnreachableError
from tunesmith.providers.find import find_provider
from tunesmith.providers.protocol import ENDED, Job, JobEvent, Provider
from tunesmith.providers.state import ProviderState, read_state, write_state
from tunesmith.run_folder import RunFolder
from tunesmith.training.event_log import EventLog
from tunesmith.training.events import EndEvent, EvalEvent, Event, MessageEvent, StepEvent

POLL_SECONDS = 5.0
LONGEST_WAIT = 60.0
PATIENCE = 20
"""Rounds in a row that may fail before the watch gives up; it can be taken up again at any time."""

_REASONS = {"succeeded": "finished", "failed": "failed", "cancelled": "interrupted"}


def watch(
    run: RunFolder,
    *,
    observer: Callable[[Event], None] | None = None,
    poll_seconds: float = POLL_SECONDS,
) -> Job:
    """Follow the run's job until it has ended, and return it; every event is recorded and told to `observer`.

    Raises RunError when no job was submitted from the folder, ProviderError when the provider refuses or stays away.
    """
    state = read_state(run)
    place = find_provider(state.provider)
    with EventLog(run.events, observer, keep_bytes=state.events_bytes) as log:

        def look(state: ProviderState) -> ProviderState:
            """One round, on the disk before the next."""
            records, state = _news(place, state)
            for record in records:
                log.record(record)
            state = msgspec.structs.replace(state, events_bytes=log.size)
            write_state(run, state)
            return state

        return _follow(look, state, poll_seconds, again=f"tunesmith jobs watch {run.root}")


def watch_elsewhere(
    provider: str, job: str, *, observer: Callable[[Event], None] | None = None, poll_seconds: float = POLL_SECONDS
) -> Job:
    """Follow a job that was not submitted from here, from its first event to its end; nothing of it is recorded.

    Raises SpecError for an unknown provider, ProviderError when it refuses or stays away.
    """
    place = find_provider(provider)

    def look(state: ProviderState) -> ProviderState:
        records, state = _news(place, state)
        if observer is not None:
            for record in records:
                observer(record)
        return state

    unseen = ProviderState(provider, Job(job, "queued", "", 0.0), "", None)
    return _follow(look, unseen, poll_seconds, again=f"tunesmith jobs watch {job} --provider {provider}")


def _follow(
    look: Callable[[ProviderState], ProviderState], state: ProviderState, poll_seconds: float, *, again: str
) -> Job:
    failed = 0
    while state.job.status not in ENDED:
        try:
            state = look(state)
            failed = 0
        except ProviderUnreachableError as error:
            failed += 1
            if failed > PATIENCE:
                raise ProviderUnreachableError(f"{error}; the job goes on: {again}") from error
        if state.job.status not in ENDED:
            time.sleep(min(poll_seconds * 2**failed, LONGEST_WAIT))
    return state.job


def _news(place: Provider, state: ProviderState) -> tuple[list[Event], ProviderState]:
    """What has happened since `state`, as the run's log has it, and the state after it."""
    # The job first: once it has ended, no event comes after those that are asked for next.
    job = place.retrieve(state.job.id)
    known = set(state.seen)
    events = place.events(job.id)
    new = [event for event in events if event.id not in known]
    records: list[Event] = []
    for event in new:
        made, state = _records(event, state)
        records += made
    if job.status in ENDED:
        last = max((event.time for event in events), default=job.created)
        records.append(EndEvent(state.last_step, _REASONS[job.status], state.best_step, max(0.0, last - job.created)))
    return records, msgspec.structs.replace(state, job=job, seen=(*state.seen, *(event.id for event in new)))


def _records(event: JobEvent, state: ProviderState) -> tuple[list[Event], ProviderState]:
    """The event as the run's log has it, and the state after it."""
    if event.step is None or (event.loss is None and event.validation_loss is None):
        return [MessageEvent(event.time, event.level, event.message)], state
    state = msgspec.structs.replace(state, last_step=event.step)
    records: list[Event] = []
    if event.loss is not None:
        records.append(StepEvent(event.step, event.loss, 0.0, 0.0, 0, 0, 0.0, 0.0))
    if event.validation_loss is not None:
        best = state.best_loss is None or event.validation_loss < state.best_loss
        if best:
            state = msgspec.structs.replace(state, best_loss=event.validation_loss, best_step=event.step)
        records.append(EvalEvent(event.step, event.validation_loss, 0, 0.0, best))
    return records, state
