"""What can be made again and is kept to save time: files in the cache folder, named by all that they were made of.

A name is a digest of content, the code that made the file included, so an entry is never stale and none has to be
declared so; what nobody has asked for longest goes when its kind outgrows `MOST_BYTES`. Two processes that make the
same entry write the same bytes under temporary names, and whoever renames last changes nothing.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
from collections.abc import Callable
from pathlib import Path

from tunesmith.errors import StorageError
from tunesmith.settings import load_settings
from tunesmith.storage import atomic_file

log = logging.getLogger(__name__)

MOST_BYTES = 20 * 2**30
"""Of all entries of a kind: four billion tokenized tokens, and small beside the models of whoever has as many."""


def entry(kind: str, key: str) -> Path:
    """Where the entry of that `kind` and `key` is, whether or not it is there yet; it counts as asked for now."""
    path = load_settings().cache / kind / key
    with contextlib.suppress(OSError):  # not there, or not ours to mark
        os.utime(path)
    return path


def keep(path: Path, write: Callable[[Path], object]) -> None:
    """Make the entry at `path` with `write`, which is given a temporary name; what is oldest then makes room.

    An entry that cannot be written costs a warning.
    """
    try:
        with atomic_file(path) as temporary:
            write(temporary)
        _make_room(path)
    except StorageError as error:
        log.warning("%s is not cached: %s", path.parent.name, error)


def remembered(kind: str, key: str | None, make: Callable[[], bytes]) -> bytes:
    """What `make` returns, from the entry of that `kind` and `key` where it is there; no key, no entry."""
    if key is None:
        return make()
    path = entry(kind, key)
    try:
        return path.read_bytes()
    except OSError:
        made = make()
    keep(path, lambda temporary: temporary.write_bytes(made))
    return made


def digest(*parts: str | bytes) -> str:
    """A name for `parts`, in their order."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hashed.update(len(data).to_bytes(8, "little") + data)
    return hashed.hexdigest()


def file_digest(path: Path) -> str:
    """A name for the file's content. Raises OSError when it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@functools.cache
def code_digest(modules: tuple[str, ...], distributions: tuple[str, ...]) -> str:
    """A name for the source of `modules` (of packages: all within) and the versions of installed `distributions`."""
    parts = [f"{name} {importlib.metadata.version(name)}" for name in distributions]
    for name in modules:
        origin = Path(str(getattr(importlib.util.find_spec(name), "origin", None)))
        files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
        parts += [file_digest(file) for file in files]
    return digest(*parts)


def _make_room(kept: Path) -> None:
    """Remove what nobody has asked for longest; a process that has it mapped keeps its pages."""
    found = []
    for path in kept.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    surplus = sum(size for _, size, _ in found) - MOST_BYTES
    for _, size, path in sorted(found):
        if surplus > 0 and path != kept:
            path.unlink(missing_ok=True)
            surplus -= size
