"""Process-wide settings from environment variables, read here and nowhere else."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """`cache` holds tokenized data and other things that can be made again; `threads` bounds worker processes."""

    cache: Path
    threads: int


def load_settings() -> Settings:
    """Settings from `TUNESMITH_CACHE` (default `~/.cache/tunesmith`) and `TUNESMITH_THREADS` (default: all cores)."""
    cache = os.environ.get("TUNESMITH_CACHE") or Path.home() / ".cache" / "tunesmith"
    threads = os.environ.get("TUNESMITH_THREADS", "")
    return Settings(
        Path(cache), int(threads) if threads.isdigit() and int(threads) > 0 else len(os.sched_getaffinity(0))
    )


def api_key(variable: str) -> str | None:
    """The API key in the environment variable `variable`; it is read when it is needed and never kept."""
    return os.environ.get(variable, "").strip() or None
