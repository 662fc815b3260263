"""The few statements that the store is made of, on SQLite or PostgreSQL, each a transaction of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from tunesmith.errors import StorageError
from tunesmith.server import schema
from tunesmith.server.errors import RequestError
from tunesmith.server.records import FileRecord, JobRecord, PermissionRecord

_T = TypeVar("_T")
_Record = TypeVar("_Record", "FileRecord", "JobRecord", "PermissionRecord")

Statement = sa.Insert | sa.Update | sa.Delete


@dataclass(frozen=True)
class Page(Generic[_T]):
    """One page of a list, newest first unless asked otherwise."""

    items: list[_T]
    has_more: bool


class Database:
    """The tables of `schema` behind a URL."""

    def __init__(self, url: str) -> None:
        """Open `url` and create what is missing. Raises StorageError when the database cannot be reached."""
        self._engine = sa.create_engine(url, pool_pre_ping=True)
        if url.startswith("sqlite"):
            sa.event.listen(self._engine, "connect", _tune_sqlite)
        try:
            schema.metadata.create_all(self._engine)
        except sa.exc.SQLAlchemyError as error:
            shown = sa.make_url(url).render_as_string(hide_password=True)
            raise StorageError(f"--database {shown}: cannot be opened: {_cause(error)}") from error

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def healthy(self) -> bool:
        """Whether the database answers."""
        try:
            with self._engine.connect() as connection:
                connection.execute(sa.text("select 1"))
        except sa.exc.SQLAlchemyError:
            return False
        return True

    def insert(self, table: sa.Table, **values: Any) -> None:
        """Add a row."""
        self.write(sa.insert(table).values(**values))

    def write(self, statement: Statement, *consequences: Statement) -> int:
        """How many rows the statement met; where it met any, its consequences are there too, or nothing is."""
        with self._engine.begin() as connection:
            met = connection.execute(statement).rowcount
            if met:
                for consequence in consequences:
                    connection.execute(consequence)
            return met

    def one(self, statement: sa.Select[Any]) -> dict[str, Any] | None:
        """The first row, if there is any."""
        rows = self.all(statement.limit(1))
        return rows[0] if rows else None

    def all(self, statement: sa.Select[Any]) -> list[dict[str, Any]]:
        """Every row."""
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]

    def owned(self, table: sa.Table, owner: str, row_id: str) -> dict[str, Any] | None:
        """The row of that id, if it is `owner`'s."""
        if "\0" in row_id:  # PostgreSQL refuses even to look for it
            return None
        return self.one(sa.select(table).where(table.c.id == row_id, table.c.owner == owner))

    def page(
        self,
        record: type[_Record],
        table: sa.Table,
        owner: str,
        where: Sequence[sa.ColumnElement[bool]],
        after: str | None,
        limit: int,
        newest_first: bool,
    ) -> Page[_Record]:
        """The page of `owner`'s rows that follows the row `after`. Raises RequestError when there is none such."""
        conditions = [table.c.owner == owner, *where]
        if after is not None:
            cursor = self.owned(table, owner, after)
            if cursor is None:
                raise RequestError(f"after: no such id: {after}", code="invalid_cursor", param="after")
            seq = cursor["seq"]
            conditions.append(table.c.seq < seq if newest_first else table.c.seq > seq)
        order = table.c.seq.desc() if newest_first else table.c.seq
        rows = self.all(sa.select(table).where(*conditions).order_by(order).limit(limit + 1))
        return Page([record(**row) for row in rows[:limit]], len(rows) > limit)


def _tune_sqlite(connection: Any, _record: Any) -> None:
    """WAL lets readers go on beside a writer; FULL syncs each commit, so what a client was told survives a crash."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _cause(error: sa.exc.SQLAlchemyError) -> str:
    text = str(getattr(error, "orig", None) or error)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
