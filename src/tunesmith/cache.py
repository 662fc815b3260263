"""What can be made again and is kept to save time: files in the cache folder, named by all that they were made of.

A name is a digest of content, the code that made the file included, so an entry is never stale and none has to be
declared so; what nobody asks for any more stays until a person removes the folder. Two processes that make the same
entry write the same bytes under temporary names, and whoever renames last changes nothing.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

from tunesmith.errors import StorageError
from tunesmith.settings import load_settings
from tunesmith.storage import write_bytes

log = logging.getLogger(__name__)


def entry(kind: str, key: str) -> Path:
    """Where the entry of that `kind` and `key` is, whether or not it is there yet."""
    return load_settings().cache / kind / key


def remembered(kind: str, key: str | None, make: Callable[[], bytes]) -> bytes:
    """What `make` returns, from the entry of that `kind` and `key` where it is there; no key, no entry.

    An entry that cannot be written costs a warning.
    """
    if key is None:
        return make()
    path = entry(kind, key)
    try:
        return path.read_bytes()
    except OSError:
        made = make()
    try:
        write_bytes(path, made)
    except StorageError as error:
        log.warning("%s is not cached: %s", kind, error)
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
