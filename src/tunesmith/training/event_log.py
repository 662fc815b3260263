"""The writer of `events.jsonl`: each event is on the disk before the loop goes on.

One fsync per event (well under a millisecond on an SSD) buys a log that survives a pulled plug. A checkpoint remembers
the log's length; resuming cuts the log back to it, so that no step is missing and none is there twice. Of several ranks
the first writes, and the others keep in memory what they would have written.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from tunesmith.errors import StorageError
from tunesmith.training import ranks
from tunesmith.training.events import Event, read_events


class EventLog:
    """Appends events to the file at `path` and tells them to `observer`; use it as a context manager."""

    def __init__(self, path: Path, observer: Callable[[Event], None] | None = None, *, keep_bytes: int = 0) -> None:
        self._path = path
        self._observer = observer
        self._file: BinaryIO = io.BytesIO()
        if ranks.is_main():
            try:
                self._file = path.open("ab", buffering=0)
                self._file.truncate(keep_bytes)
            except OSError as error:
                raise _refused(path, error) from error
        self.events = read_events(path) if ranks.is_main() else []
        """Everything recorded so far, what was kept of an earlier start included."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def size(self) -> int:
        """Bytes written so far: what a checkpoint remembers."""
        return self._file.seek(0, os.SEEK_END)

    def record(self, event: Event) -> None:
        """Write one event as a line, sync it, and show it. Raises StorageError when the disk refuses."""
        try:
            if ranks.is_main():
                self._file.write(msgspec.json.encode(event) + b"\n")
                os.fsync(self._file.fileno())
        except OSError as error:
            raise _refused(self._path, error) from error
        self.events.append(event)
        if self._observer is not None:
            self._observer(event)


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot write: {error.strerror}; free space or choose another output")
