"""The audit log: who changed what, and which keys were refused. Appended and synced line by line; never a secret."""

import os
import threading
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from tunesmith.errors import StorageError


class AuditEntry(Struct, frozen=True, omit_defaults=True):
    """One line. `key` is the public part of the API key; `object` is the id of what was acted on."""

    time: float
    action: str
    object: str = ""
    owner: str = ""
    key: str = ""
    address: str = ""
    request: str = ""


class AuditLog:
    """Appends entries to one file, readable by its owner only."""

    def __init__(self, path: Path) -> None:
        """Raises StorageError when the file cannot be opened."""
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise StorageError(f"{path}: cannot write: {error.strerror}; choose another --data-dir") from error
        self._lock = threading.Lock()

    def record(
        self, action: str, thing: str = "", *, owner: str = "", key: str = "", address: str = "", request: str = ""
    ) -> None:
        """Write one entry and sync it."""
        entry = AuditEntry(time.time(), action, thing, owner, key, address, request)
        with self._lock:
            os.write(self._descriptor, msgspec.json.encode(entry) + b"\n")
            os.fsync(self._descriptor)
