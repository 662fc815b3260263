"""The server's tables, for SQLite and PostgreSQL alike.

`seq` orders rows of the same second and is what pagination walks; ids are what clients see. Times are Unix seconds.
"""

import sqlalchemy as sa

metadata = sa.MetaData()

_SEQ = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts up only INTEGER primary keys

keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("salt", sa.String, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("revoked_at", sa.Float),
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("owner", sa.String, nullable=False, index=True),
    sa.Column("filename", sa.String, nullable=False),
    sa.Column("purpose", sa.String, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("stored_as", sa.String, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("owner", sa.String, nullable=False, index=True),
    sa.Column("status", sa.String, nullable=False, index=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("training_file", sa.String, nullable=False),
    sa.Column("validation_file", sa.String),
    sa.Column("suffix", sa.String),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("method", sa.JSON, nullable=False),
    sa.Column("hyperparameters", sa.JSON, nullable=False),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("error", sa.JSON),
    sa.Column("fine_tuned_model", sa.String),
    sa.Column("trained_tokens", sa.BigInteger),
    sa.Column("result_file", sa.String),
)

events = sa.Table(
    "job_events",
    metadata,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("job", sa.String, nullable=False, index=True),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("level", sa.String, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("owner", sa.String, nullable=False, index=True),
    sa.Column("base", sa.String, nullable=False),
    sa.Column("job", sa.String, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)

permissions = sa.Table(
    "permissions",
    metadata,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("project", sa.String, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.UniqueConstraint("model", "project"),
)
"""Whom an owner lets use a fine-tuned model or checkpoint."""

made = sa.Table(
    "made",
    metadata,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=True),
    sa.Column("digest", sa.String, nullable=False, index=True),
    sa.Column("thing", sa.String, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)
"""What requests have made or deleted, by their digest: see `repeats`."""

ended_sessions = sa.Table(
    "ended_sessions",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("until", sa.Float, nullable=False),
)
"""Sessions of the dashboard that somebody has left before their time."""
