"""Judgements in one SQLite file in the run folder: every keypress is on the disk before the next pair is shown.

Kept by what was judged (row and models), not by what the page calls it, so results outlive the page; with a digest of
the replies, so that a judgement is never taken for one of other replies to the same row. One connection a
call: a page served to a few people has no use for a pool.
"""

import contextlib
import logging
import secrets
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from msgspec import Struct

from tunesmith.errors import RunError, StorageError
from tunesmith.evaluation.human.duels import Board, Duel

log = logging.getLogger(__name__)

Choice: TypeAlias = Literal["first", "second", "tie", "both bad"]
CHOICES: tuple[Choice, ...] = get_args(Choice)

SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS judgements (
    rater TEXT NOT NULL, "row" INTEGER NOT NULL, first TEXT NOT NULL, second TEXT NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('first', 'second', 'tie', 'both bad')),
    note TEXT NOT NULL, seconds REAL NOT NULL, judged_at REAL NOT NULL, content TEXT NOT NULL,
    PRIMARY KEY (rater, "row", first, second)
);
CREATE TABLE IF NOT EXISTS set_aside AS SELECT * FROM judgements WHERE 0;
"""


class Judgement(Struct, frozen=True):
    """What a rater thinks of two models' replies to a row; `seconds` they took, `judged_at` as Unix time."""

    rater: str
    row: int
    first: str
    second: str
    choice: Choice
    note: str
    seconds: float
    judged_at: float


class Store:
    """The judgements of a run. Raises StorageError when the file cannot be made, RunError when it is none of ours."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._connection() as connection:
            connection.executescript(SCHEMA)
            fresh = ("seed", secrets.token_hex(16))
            connection.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", fresh)

    @property
    def seed(self) -> str:
        """The secret from which orders and sides follow; made with the file."""
        with self._connection() as connection:
            return str(connection.execute("SELECT value FROM settings WHERE name = 'seed'").fetchone()[0])

    def record(self, rater: str, duel: Duel, choice: Choice, note: str = "", seconds: float = 0.0) -> None:
        """Keep a judgement; one made before by the same rater is replaced."""
        values = (rater, duel.row, duel.first, duel.second, choice, note.strip(), seconds, time.time(), duel.content)
        with self._connection() as connection:
            connection.execute("INSERT OR REPLACE INTO judgements VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def judgements(self, rater: str | None = None) -> list[Judgement]:
        """All judgements, or one rater's, in the order they were made."""
        where, values = ("WHERE rater = ?", (rater,)) if rater is not None else ("", ())
        with self._connection() as connection:
            rows = connection.execute(f"SELECT * FROM judgements {where} ORDER BY judged_at", values)  # noqa: S608
            return [Judgement(*row[:-1]) for row in rows]

    def set_aside_outdated(self, board: Board) -> int:
        """Set the judgements aside whose replies are others by now, since the run was evaluated anew; how many."""
        with self._connection() as connection:
            connection.execute("CREATE TEMP TABLE shown (row, first, second, content)")
            shown = ((duel.row, duel.first, duel.second, duel.content) for duel in board.duels)
            connection.executemany("INSERT INTO shown VALUES (?, ?, ?, ?)", shown)
            outdated = (
                'FROM judgements WHERE ("row", first, second) IN (SELECT row, first, second FROM shown) '
                'AND ("row", first, second, content) NOT IN (SELECT * FROM shown)'
            )
            connection.execute(f"INSERT INTO set_aside SELECT * {outdated}")  # our own text
            count = connection.execute(f"DELETE {outdated}").rowcount
        if count:
            log.warning("%s: %d judgements are of replies before the last evaluation; set aside", self._path, count)
        return count

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = sqlite3.connect(self._path, timeout=10)
            try:
                with connection:  # commits, or rolls back on an error
                    yield connection
            finally:
                connection.close()
        except sqlite3.OperationalError as error:
            raise StorageError(f"{self._path}: cannot be written: {error}; free space or mend its rights") from error
        except sqlite3.DatabaseError as error:
            raise RunError(f"{self._path}: cannot be read: {error}; move it away to start anew") from error
