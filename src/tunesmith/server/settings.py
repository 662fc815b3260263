"""What `tunesmith serve` was started with, read once and immutable after."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.errors import SpecError

MAX_UPLOAD_BYTES = 512 * 2**20
"""OpenAI's own limit for one file."""

MAX_BODY_BYTES = 8 * 2**20
"""Of any other request: a conversation of a million tokens fits."""

REQUESTS_PER_MINUTE = 6_000
"""For each key: a guard against a client that runs wild, far above what a program polling and chatting needs."""


@dataclass(frozen=True)
class ServerSettings:
    """`models` maps ids to what `models.load` accepts; folders inside `models_dir` are served by their names.

    The dashboard lists the runs inside `runs_dir`, which need not be there yet. With `python_graders`, clients may send
    code that grades replies; `grader_url` is where models are asked for scores; `backend` is a vLLM server.
    """

    data_dir: Path
    database: str
    host: str = "127.0.0.1"
    port: int = 8000
    models_dir: Path | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    runs_dir: Path | None = None
    concurrent_jobs: int = 1
    requests_per_minute: int = REQUESTS_PER_MINUTE
    python_graders: bool = False
    grader_url: str | None = None
    backend: str | None = None
    max_upload_bytes: int = MAX_UPLOAD_BYTES
    max_body_bytes: int = MAX_BODY_BYTES

    @property
    def files_dir(self) -> Path:
        """Where uploads and results are kept, by file id."""
        return self.data_dir / "files"

    @property
    def jobs_dir(self) -> Path:
        """Where each job has its folder, by job id."""
        return self.data_dir / "jobs"

    @property
    def audit_log(self) -> Path:
        """One JSON object a line for everything that changes something, and for refused keys."""
        return self.data_dir / "audit.jsonl"

    @property
    def workflow_database(self) -> str:
        """Where DBOS keeps its workflows: PostgreSQL's own schema, or a second SQLite file (it writes often)."""
        if self.database.startswith("sqlite"):
            return f"sqlite:///{self.data_dir / 'workflows.sqlite'}"
        return self.database


def database_url(url: str | None, data_dir: Path) -> str:
    """The SQLAlchemy URL for `--database`; None is a SQLite file in `data_dir`. Raises SpecError."""
    if url is None:
        return f"sqlite:///{data_dir / 'tunesmith.sqlite'}"
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("postgresql", "postgres", "sqlite"):
        raise SpecError(f"--database {scheme}: give postgresql://user:password@host/name, or sqlite:///FILE")
    return f"postgresql+psycopg://{rest}" if scheme.startswith("postgres") else url
