"""Durable writes: a temporary name, sync, rename, so a file or folder is whole or absent.

The cost is one fsync per file and one per directory entry; checkpoints and results are worth it,
streams (events) append instead and sync per record.
"""

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tunesmith.errors import StorageError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success sync it and rename it to `path`.

    Raises StorageError when the folder cannot be created or written; the temporary file is then removed.
    """
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success sync all of it and rename it to `path`.

    An existing folder at `path` is replaced, and is still there whole if writing fails.
    Raises StorageError when the disk refuses.
    """
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield temporary
            for file in temporary.rglob("*"):
                _sync(file)
            _sync(temporary)
            temporary.chmod(0o777 & ~_umask())
            _replace_folder(temporary, path)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def remove_unfinished(path: Path) -> None:
    """Remove what a process that was killed while it wrote `path` has left beside it. Nobody else may be writing it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def must_be_writable(path: Path) -> None:
    """Raise StorageError now, before hours of work, when no folder could be written at `path`; nothing is created."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise StorageError(f"{path}: cannot write: {existing} is a file; choose another output")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise StorageError(f"{path}: cannot write: {existing} is read-only; choose another output")


def must_be_writable_file(path: Path) -> None:
    """The same for a file, which may be there already."""
    if path.is_dir():
        raise StorageError(f"{path}: cannot write: it is a folder; choose another output")
    must_be_writable(path.parent)


def _replace_folder(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
        return
    # POSIX cannot swap non-empty folders in one call: move the old one aside first, so it is never lost.
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    path.rename(old / path.name)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        # Libraries raise OSError for their own reasons (a missing hub file); only the disk's own refusals are ours.
        if error.errno is None:
            raise
        raise StorageError(
            f"{path}: cannot write: {os.strerror(error.errno)}; free space or choose another output"
        ) from error
