"""The one data layer: plain functions of values over the tables of `schema`, on SQLite or PostgreSQL.

Everything that belongs to somebody is looked up together with its owner. A state changes by one conditional UPDATE,
so of two processes that want to move a job, one does.
"""

import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from tunesmith.errors import StorageError
from tunesmith.server import schema
from tunesmith.server.database import Database, Page, Statement
from tunesmith.server.errors import RequestError, not_found
from tunesmith.server.records import EventRecord, FileRecord, JobRecord, KeyRecord, ModelRecord, PermissionRecord
from tunesmith.server.repeats import KEY_SECONDS
from tunesmith.server.settings import ServerSettings
from tunesmith.server.states import TERMINAL, JobStatus, sources


class Store:
    """The database of one server (or of several, on PostgreSQL)."""

    def __init__(self, url: str) -> None:
        """Open the database at `url`. Raises StorageError when it cannot be reached."""
        self._database = Database(url)

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    def healthy(self) -> bool:
        """Whether the database answers."""
        return self._database.healthy()

    # keys

    def add_key(self, owner: str, *, key_id: str, salt: str, digest: str) -> None:
        """Remember a key by its digest."""
        self._database.insert(schema.keys, id=key_id, owner=owner, salt=salt, digest=digest, created_at=time.time())

    def find_key(self, key_id: str) -> KeyRecord | None:
        """The key with this public part, if it exists and is not revoked."""
        row = self._database.one(
            sa.select(schema.keys).where(schema.keys.c.id == key_id, schema.keys.c.revoked_at.is_(None))
        )
        return None if row is None else KeyRecord(**row)

    def list_keys(self) -> list[KeyRecord]:
        """All keys, revoked ones included, oldest first."""
        return [
            KeyRecord(**row) for row in self._database.all(sa.select(schema.keys).order_by(schema.keys.c.created_at))
        ]

    def revoke_key(self, key_id: str) -> bool:
        """Revoke a key; False when there is none that is still good."""
        table = schema.keys
        where = (table.c.id == key_id, table.c.revoked_at.is_(None))
        return self._database.write(sa.update(table).where(*where).values(revoked_at=time.time())) == 1

    # sessions of the dashboard

    def end_session(self, session: str, until: float) -> None:
        """Remember that a session was left, until the time (in Unix seconds) when it ends by itself."""
        table = schema.ended_sessions
        self._database.write(sa.delete(table).where(table.c.until < time.time()))
        with contextlib.suppress(sa.exc.IntegrityError):  # left twice
            self._database.insert(table, id=session, until=until)

    def is_session_ended(self, session: str) -> bool:
        """Whether somebody has left the session."""
        table = schema.ended_sessions
        return self._database.one(sa.select(table.c.id).where(table.c.id == session)) is not None

    # files

    def add_file(
        self,
        owner: str,
        *,
        filename: str,
        purpose: str,
        size: int,
        stored_as: str,
        file_id: str | None = None,
        request: str | None = None,
    ) -> FileRecord:
        """Remember a file whose bytes are already in their place, and the digest of the `request` that made it."""
        file_id = file_id or new_id("file-")
        row = sa.insert(schema.files).values(
            id=file_id,
            owner=owner,
            filename=filename,
            purpose=purpose,
            bytes=size,
            stored_as=stored_as,
            created_at=time.time(),
        )
        self._database.write(row, *_done(request, file_id))
        return self.get_file(owner, file_id)

    def get_file(self, owner: str, file_id: str) -> FileRecord:
        """`owner`'s file. Raises RequestError 404."""
        row = self._database.owned(schema.files, owner, file_id)
        if row is None:
            raise not_found("file", file_id)
        return FileRecord(**row)

    def list_files(
        self, owner: str, *, purpose: str | None, after: str | None, limit: int, newest_first: bool = True
    ) -> Page[FileRecord]:
        """A page of `owner`'s files."""
        where = [] if purpose is None else [schema.files.c.purpose == purpose]
        return self._database.page(FileRecord, schema.files, owner, where, after, limit, newest_first)

    def delete_file(self, owner: str, file_id: str, *, request: str | None = None) -> None:
        """Forget a file, and remember the digest of the `request` that asked for it.

        Raises RequestError 404, or 409 while a job that has not ended needs it.
        """
        self.get_file(owner, file_id)
        jobs = schema.jobs.c
        needed = sa.select(jobs.id).where(
            sa.or_(jobs.training_file == file_id, jobs.validation_file == file_id), jobs.status.not_in(TERMINAL)
        )
        user = self._database.one(needed)
        if user is not None:
            raise RequestError(
                f"File {file_id} is in use by job {user['id']}; cancel the job first", status=409, code="file_in_use"
            )
        self._database.write(sa.delete(schema.files).where(schema.files.c.id == file_id), *_done(request, file_id))

    # jobs

    def add_job(self, owner: str, *, request: str | None = None, **values: Any) -> JobRecord:
        """Remember a new job in its first state, its first events, and the digest of the `request` that made it."""
        job_id = new_id("ftjob-")
        row = sa.insert(schema.jobs).values(
            id=job_id, owner=owner, status="validating_files", attempt=1, created_at=time.time(), **values
        )
        said = (f"Created fine-tuning job: {job_id}", f"Validating training file: {values['training_file']}")
        self._database.write(row, *(_event(job_id, message) for message in said), *_done(request, job_id))
        return self.get_job(owner, job_id)

    def get_job(self, owner: str, job_id: str) -> JobRecord:
        """`owner`'s job. Raises RequestError 404."""
        row = self._database.owned(schema.jobs, owner, job_id)
        if row is None:
            raise not_found("fine tuning job", job_id)
        return JobRecord(**row)

    def job(self, job_id: str) -> JobRecord:
        """The job, whosever it is: for the workflow that acts for it."""
        row = self._database.one(sa.select(schema.jobs).where(schema.jobs.c.id == job_id))
        if row is None:
            raise not_found("fine tuning job", job_id)
        return JobRecord(**row)

    def list_jobs(
        self, owner: str, *, after: str | None, limit: int, metadata: Mapping[str, str] | None = None
    ) -> Page[JobRecord]:
        """A page of `owner`'s jobs, newest first; `metadata` keeps those that have all of its pairs."""
        where = [schema.jobs.c.metadata[key].as_string() == value for key, value in (metadata or {}).items()]
        return self._database.page(JobRecord, schema.jobs, owner, where, after, limit, newest_first=True)

    def unfinished_jobs(self) -> list[JobRecord]:
        """Every job that a workflow should be acting for, oldest first."""
        waiting = schema.jobs.c.status.not_in(TERMINAL | {"paused"})
        rows = self._database.all(sa.select(schema.jobs).where(waiting).order_by(schema.jobs.c.seq))
        return [JobRecord(**row) for row in rows]

    def count_jobs(self) -> dict[str, int]:
        """How many jobs are in each state."""
        rows = self._database.all(
            sa.select(schema.jobs.c.status, sa.func.count().label("number")).group_by(schema.jobs.c.status)
        )
        return {row["status"]: row["number"] for row in rows}

    def move_job(
        self,
        job_id: str,
        to: JobStatus,
        *saying: str,
        level: str = "info",
        of_attempt: int | None = None,
        **changes: Any,
    ) -> bool:
        """Move a job to `to` together with other `changes` and the events that say so; tells whether that was legal.

        With `of_attempt`, only a job in that attempt is moved. Of several who try at once, one succeeds.
        """
        table = schema.jobs
        where = [table.c.id == job_id, table.c.status.in_(sources(to))]
        if of_attempt is not None:
            where.append(table.c.attempt == of_attempt)
        if to in TERMINAL:
            changes["finished_at"] = time.time()
        move = sa.update(table).where(*where).values(status=to, **changes)
        return self._database.write(move, *(_event(job_id, message, level) for message in saying)) == 1

    def update_job(self, job_id: str, **changes: Any) -> None:
        """Change facts of a job other than its state."""
        self._database.write(sa.update(schema.jobs).where(schema.jobs.c.id == job_id).values(**changes))

    # requests that are sent again

    def find_made(self, request: str, *, within_seconds: float) -> str | None:
        """The id of what a request with this digest made, or deleted, last, if that is no longer ago."""
        table = schema.made
        fresh = table.c.created_at > time.time() - within_seconds
        row = self._database.one(sa.select(table).where(table.c.digest == request, fresh).order_by(table.c.seq.desc()))
        return None if row is None else str(row["thing"])

    # events

    def add_event(self, job_id: str, message: str, *, level: str = "info", once: str | None = None) -> None:
        """Record what happened; `once` names the occasion, so a step that is done again does not say it twice."""
        try:
            self._database.write(_event(job_id, message, level, once))
        except sa.exc.IntegrityError:
            if once is None:
                raise

    def events(self, job_id: str) -> list[EventRecord]:
        """What happened to a job, oldest first."""
        table = schema.events
        return [
            EventRecord(**row)
            for row in self._database.all(sa.select(table).where(table.c.job == job_id).order_by(table.c.seq))
        ]

    # models

    def add_model(self, owner: str, model_id: str, *, base: str, job: str) -> None:
        """Remember a fine-tuned model; doing it again changes nothing."""
        try:
            self._database.insert(schema.models, id=model_id, owner=owner, base=base, job=job, created_at=time.time())
        except sa.exc.IntegrityError:
            return

    def find_model(self, owner: str, model_id: str) -> ModelRecord | None:
        """`owner`'s fine-tuned model, if there is one of that name."""
        row = self._database.owned(schema.models, owner, model_id)
        return None if row is None else ModelRecord(**row)

    def list_models(self, owner: str) -> list[ModelRecord]:
        """`owner`'s fine-tuned models, oldest first."""
        table = schema.models
        return [
            ModelRecord(**row)
            for row in self._database.all(sa.select(table).where(table.c.owner == owner).order_by(table.c.created_at))
        ]

    def delete_model(self, owner: str, model_id: str, *, request: str | None = None) -> bool:
        """Forget a fine-tuned model, and remember the digest of the `request` that asked for it.

        False when `owner` has none of that name.
        Raises RequestError 409 while a job that has not ended starts from it, or from one of its checkpoints.
        """
        jobs, shared, table = schema.jobs.c, schema.permissions.c, schema.models
        starts = (jobs.owner == owner, _names(jobs.model, model_id), jobs.status.not_in(TERMINAL))
        user = self._database.one(sa.select(jobs.id).where(*starts))
        if user is not None:
            raise RequestError(
                f"Job {user['id']} starts from model {model_id}; cancel the job first",
                status=409,
                code="model_in_use",
                param="model",
            )
        unshare = sa.delete(schema.permissions).where(shared.owner == owner, _names(shared.model, model_id))
        forget = sa.delete(table).where(table.c.id == model_id, table.c.owner == owner)
        return self._database.write(forget, unshare, *_done(request, model_id)) == 1

    # permissions

    def add_permission(self, owner: str, model: str, project: str) -> PermissionRecord:
        """Let `project` use `owner`'s model; doing it again changes nothing."""
        table = schema.permissions
        with contextlib.suppress(sa.exc.IntegrityError):
            self._database.insert(
                table, id=new_id("cp_"), owner=owner, model=model, project=project, created_at=time.time()
            )
        row = self._database.one(sa.select(table).where(table.c.model == model, table.c.project == project))
        if row is None:  # taken back in the meantime
            raise not_found("permission", model)
        return PermissionRecord(**row)

    def list_permissions(
        self, owner: str, model: str, *, project: str | None, after: str | None, limit: int, newest_first: bool
    ) -> Page[PermissionRecord]:
        """A page of the permissions for `owner`'s model, of one project's where it is named."""
        table = schema.permissions
        where = [table.c.model == model, *([] if project is None else [table.c.project == project])]
        return self._database.page(PermissionRecord, table, owner, where, after, limit, newest_first)

    def delete_permission(self, owner: str, model: str, permission_id: str, *, request: str | None = None) -> bool:
        """Take a permission back, and remember the digest of the `request` for it; False when there is none such."""
        table = schema.permissions.c
        where = (table.owner == owner, table.model == model, table.id == permission_id)
        forget = sa.delete(schema.permissions).where(*where)
        return self._database.write(forget, *_done(request, permission_id)) == 1

    def who_shares(self, model: str, project: str) -> str | None:
        """The owner who lets `project` use `model`, if somebody does."""
        if "\0" in model:  # as in `_owned`
            return None
        table = schema.permissions
        row = self._database.one(sa.select(table.c.owner).where(table.c.model == model, table.c.project == project))
        return None if row is None else str(row["owner"])


def open_store(settings: ServerSettings) -> Store:
    """The server's database and folders, made where they are missing. Raises StorageError."""
    for folder in (settings.data_dir, settings.files_dir, settings.jobs_dir):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"--data-dir {folder}: cannot be created: {error.strerror}; choose another") from error
    return Store(settings.database)


def new_id(prefix: str) -> str:
    """A fresh id: 96 random bits behind `prefix`."""
    return prefix + secrets.token_hex(12)


def _event(job_id: str, message: str, level: str = "info", once: str | None = None) -> sa.Insert:
    event_id = new_id("ftevent-") if once is None else f"ftevent-{job_id.removeprefix('ftjob-')}-{once}"
    return sa.insert(schema.events).values(
        id=event_id, job=job_id, created_at=time.time(), level=level, message=message
    )


def _done(request: str | None, thing: str) -> Iterator[Statement]:
    """What remembers that the request with this digest has made, or deleted, the thing; nothing without a digest."""
    if request is not None:
        made, now = schema.made, time.time()
        yield sa.delete(made).where(made.c.created_at < now - KEY_SECONDS)
        yield sa.insert(made).values(digest=request, thing=thing, created_at=now)


def _names(column: sa.Column[str], model_id: str) -> sa.ColumnElement[bool]:
    """Whether a column names the model, or one of its checkpoints."""
    return sa.or_(column == model_id, column.startswith(f"{model_id}:", autoescape=True))
