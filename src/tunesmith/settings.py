"""Process-wide settings from environment variables, read here and nowhere else; and the form of a server's address."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit


@dataclass(frozen=True)
class Settings:
    """`cache` holds tokenized data and other things that can be made again; `threads` bounds worker processes.

    `api_key` is for OpenAI-compatible endpoints.
    """

    cache: Path
    threads: int
    api_key: str | None = field(repr=False)


def load_settings() -> Settings:
    """Settings from the environment.

    `TUNESMITH_CACHE` (default: `tunesmith` in `XDG_CACHE_HOME`, itself by default `~/.cache`), `TUNESMITH_THREADS`
    (default: all cores), `OPENAI_API_KEY`.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = os.environ.get("TUNESMITH_CACHE") or Path(caches) / "tunesmith"
    threads = os.environ.get("TUNESMITH_THREADS", "")
    return Settings(
        cache=Path(cache),
        threads=int(threads) if threads.isdigit() and int(threads) > 0 else len(os.sched_getaffinity(0)),
        api_key=os.environ.get("OPENAI_API_KEY") or None,
    )


def first_process() -> bool:
    """Whether this process is the first of those that a launcher (torchrun's variables) started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def api_key(variable: str) -> str | None:
    """The API key in the environment variable `variable`; it is read when it is needed and never kept."""
    return os.environ.get(variable, "").strip() or None


def is_set(variable: str) -> bool:
    """Whether the environment variable `variable`, another program's, says anything."""
    return bool(os.environ.get(variable))


def http_url(text: str) -> SplitResult | None:
    """`text` taken apart, if it is the URL of a server."""
    try:
        url = urlsplit(text)
    except ValueError:  # brackets around what is no address
        return None
    return url if url.scheme in ("http", "https") and url.hostname else None
