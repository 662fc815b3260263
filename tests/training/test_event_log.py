from pathlib import Path

import msgspec
import pytest

from tunesmith.errors import StorageError
from tunesmith.training.event_log import EventLog
from tunesmith.training.events import EndEvent, Event


def end(step: int) -> EndEvent:
    return EndEvent(step, "finished", None, 1.0)


def read(path: Path) -> list[Event]:
    return [msgspec.json.decode(line, type=Event) for line in path.read_bytes().splitlines()]


def test_an_event_is_on_the_disk_when_the_observer_is_told(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    seen = []
    with EventLog(path, lambda event: seen.append((event, read(path)))) as log:
        log.record(end(1))
    assert seen == [(end(1), [end(1)])]


def test_going_on_cuts_the_log_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.record(end(1))
        kept = log.size
        log.record(end(2))
    with EventLog(path, keep_bytes=kept) as log:
        log.record(end(3))
    assert read(path) == [end(1), end(3)]


def test_a_log_that_cannot_be_opened_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        EventLog(tmp_path)
