"""Uploads and results: the bytes in one folder under names we make, the facts in the store.

A training file is read with the data stage before it is accepted, so a broken row is told with its line and column
while the person who made it is still there.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tunesmith.dataset.conversation import BrokenRow
from tunesmith.dataset.read import EXPECTED_ROW, read
from tunesmith.errors import DataError
from tunesmith.server.errors import RequestError
from tunesmith.server.records import FileRecord
from tunesmith.server.repeats import Attempt
from tunesmith.server.settings import ServerSettings
from tunesmith.server.store import Store, new_id
from tunesmith.storage import atomic_file

PURPOSE = "fine-tune"
RESULTS = "fine-tune-results"

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".jsonl.gz", ".json.gz", ".jsonl.zst")
"""The endings that an upload keeps, because they tell the data stage how to read it; any other is read as JSONL."""

CHUNK_BYTES = 2**20

SHOWN_PROBLEMS = 3


def add_upload(
    settings: ServerSettings,
    store: Store,
    owner: str,
    *,
    filename: str,
    purpose: str,
    stream: IO[bytes],
    attempt: Attempt | None = None,
) -> FileRecord:
    """Keep and validate an upload. Raises RequestError 400 or 413; nothing of a refused upload stays.

    An `attempt` that repeats one whose file is there already gets that file.
    """
    if purpose != PURPOSE:
        raise RequestError(
            f"purpose {purpose}: this server takes files for `{PURPOSE}`", code="invalid_purpose", param="purpose"
        )
    shown = _shown_name(filename)
    file_id = new_id("file-")
    stored_as = file_id + _suffix(shown)
    path = settings.files_dir / stored_as
    try:
        with atomic_file(path) as temporary:
            size, content = _copy(stream, temporary, settings.max_upload_bytes)
        attempt = attempt or Attempt(owner)
        digest = attempt.digest(purpose, shown, content)
        before = _made_before(store, attempt, digest)
        if before is not None:
            path.unlink()
            return before
        problems = list(find_problems(path, shown))
        if problems:
            raise RequestError("\n".join(problems), code="invalid_training_file", param="file")
        return store.add_file(
            owner,
            filename=shown,
            purpose=purpose,
            size=size,
            stored_as=stored_as,
            file_id=file_id,
            request=digest,
        )
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def add_result(settings: ServerSettings, store: Store, owner: str, *, file_id: str, filename: str, data: bytes) -> None:
    """Keep a result under an id that was given beforehand; doing it again changes nothing."""
    stored_as = f"{file_id}.csv"
    with atomic_file(settings.files_dir / stored_as) as temporary:
        temporary.write_bytes(data)
    try:
        store.get_file(owner, file_id)
    except RequestError:
        store.add_file(owner, filename=filename, purpose=RESULTS, size=len(data), stored_as=stored_as, file_id=file_id)


def path_of(settings: ServerSettings, record: FileRecord) -> Path:
    """Where the file's bytes are."""
    return settings.files_dir / record.stored_as


def delete_file(
    settings: ServerSettings, store: Store, owner: str, file_id: str, *, request: str | None = None
) -> None:
    """Forget a file and remove its bytes; `request` as in the store. Raises RequestError 404 or 409."""
    record = store.get_file(owner, file_id)
    store.delete_file(owner, file_id, request=request)
    path_of(settings, record).unlink(missing_ok=True)


def find_problems(path: Path, shown: str) -> Iterator[str]:
    """What keeps the file from being trained on: one line per mistake, with the name that its owner gave it."""
    rows, broken = 0, 0
    try:
        for row in read(path):
            rows += 1
            if isinstance(row, BrokenRow):
                broken += 1
                if broken <= SHOWN_PROBLEMS:
                    yield str(row).replace(row.file, shown, 1)
    except DataError as error:
        yield str(error).replace(str(path), shown)
        return
    if broken > SHOWN_PROBLEMS:
        yield f"(and {broken - SHOWN_PROBLEMS:,} more mistakes)"
    if not rows:
        yield f"{shown}: no rows; expected at least one row with {EXPECTED_ROW}"


def _made_before(store: Store, attempt: Attempt, digest: str) -> FileRecord | None:
    file_id = store.find_made(digest, within_seconds=attempt.remembered_seconds)
    if file_id is None:
        return None
    try:
        return store.get_file(attempt.owner, file_id)
    except RequestError:  # deleted since
        return None


def _copy(stream: IO[bytes], path: Path, limit: int) -> tuple[int, str]:
    """Write the stream; returns its length and the digest of its content."""
    size, digest = 0, hashlib.sha256()
    with path.open("wb") as target:
        while chunk := stream.read(CHUNK_BYTES):
            size += len(chunk)
            if size > limit:
                raise RequestError(
                    f"The file is larger than {limit:,} bytes; split it",
                    status=413,
                    code="file_too_large",
                    param="file",
                )
            digest.update(chunk)
            target.write(chunk)
    return size, digest.hexdigest()


def _shown_name(filename: str) -> str:
    """The client's name for the file, for showing only: its last part, without control characters."""
    name = os.path.basename(filename.replace("\\", "/"))  # noqa: PTH119  # a string from outside, not a path of ours
    return "".join(character for character in name if character.isprintable())[:255] or "upload.jsonl"


def _suffix(name: str) -> str:
    fitting = [suffix for suffix in SUFFIXES if name.lower().endswith(suffix)]
    return max(fitting, key=len, default=".jsonl")
