"""What planning needs to know of the data: how many rows and tokens, how long, and whether that is enough.

Tokens are counted with the model's own `tokenizer.json` (the Rust library alone, no torch) on an even sample of the
rows; the chat template's own tokens are taken as ChatML's. Without a tokenizer at hand the count is an estimate and
says so. `data check --model` counts exactly.
"""

import hashlib
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from msgspec import Struct

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.errors import SpecError
from tunesmith.models.load import resolve_model

SAMPLED_ROWS = 1_000
"""Rows tokenized; percentiles of a larger set are those of this many."""

CHARACTERS_PER_TOKEN = 4
"""English text without a tokenizer at hand (OpenAI's rule of thumb)."""

TEMPLATE_TOKENS = 5
"""Per message, as in ChatML: start, role, newline, end, newline."""

OPENAI_ENCODING = "o200k_base"
"""Of gpt-4o, gpt-4o-mini and gpt-4.1 (tiktoken's own table)."""

RECOMMENDED_ROWS: dict[str, tuple[int, int, int]] = {
    "classification": (50, 500, 5_000),
    "extraction": (100, 1_000, 10_000),
    "style": (200, 1_000, 5_000),
    "domain": (500, 5_000, 50_000),
    "code": (1_000, 10_000, 100_000),
}
"""Minimum, good and excellent number of rows per task, as the field recommends them."""

ANY_TASK_ROWS = (50, 200, 5_000)
"""The same where the task is not known: the floor for any signal, and the usual advice to start with 200."""

Rating = Literal["too few", "minimum", "good", "excellent"]


class DataFacts(Struct, frozen=True):
    """Counts over all rows, lengths in tokens per row; `counted_by` says how far to trust them.

    `openai_tokens` are all tokens by OpenAI's own tokenizer, where tiktoken has it at hand; `characters` those of all
    rows' text.
    """

    rows: int
    tokens: int
    supervised_tokens: int
    median: int
    p95: int
    p99: int
    longest: int
    counted_by: Literal["tokenizer", "estimate"]
    task: str | None
    rating: Rating
    advice: str
    openai_tokens: int | None = None
    characters: int = 0

    @property
    def supervised_share(self) -> float:
        """Share of the tokens that are trained on."""
        return self.supervised_tokens / max(self.tokens, 1)


def measure(rows: Sequence[Conversation], model: str, task: str | None = None) -> DataFacts:
    """Facts about `rows` for training `model` on `task` (classification, extraction, style, domain or code).

    Raises SpecError for an unknown task or an empty data set.
    """
    if not rows:
        raise SpecError("the data holds no rows to plan for; give a file with at least one example")
    rating, advice = rate(len(rows), task)
    step = math.ceil(len(rows) / SAMPLED_ROWS)
    sample = rows[::step]
    texts = [_texts(row) for row in sample]
    tokenizer = _tokenizer_file(model)
    counts = _estimated(texts) if tokenizer is None else _tokenized(texts, tokenizer)  # (rows, [context, supervised])
    lengths = counts.sum(axis=1)
    median, p95, p99 = (math.ceil(value) for value in np.percentile(lengths, [50, 95, 99]))
    scale = len(rows) / len(sample)
    return DataFacts(
        rows=len(rows),
        tokens=round(float(lengths.sum()) * scale),
        supervised_tokens=round(float(counts[:, 1].sum()) * scale),
        median=median,
        p95=p95,
        p99=p99,
        longest=int(lengths.max()),
        counted_by="estimate" if tokenizer is None else "tokenizer",
        task=task,
        rating=rating,
        advice=advice,
        characters=round(sum(len(text) for parts in texts for part in parts for text in part) * scale),
        openai_tokens=None if (openai := _openai_tokens(texts)) is None else round(openai * scale),
    )


def rate(rows: int, task: str | None) -> tuple[Rating, str]:
    """How `rows` compares with what the task needs, and what to do about it."""
    if task is not None and task not in RECOMMENDED_ROWS:
        raise SpecError(f"--task {task}: not a known task; use one of {', '.join(RECOMMENDED_ROWS)}")
    minimum, good, excellent = ANY_TASK_ROWS if task is None else RECOMMENDED_ROWS[task]
    what = "fine-tuning" if task is None else task
    if rows < minimum:
        return "too few", f"{what} needs at least {minimum:,} rows: collect more, or use few-shot examples meanwhile"
    if rows < good:
        return "minimum", f"enough to try; {good:,} rows are good for {what}"
    if rows < excellent:
        return "good", f"a good size for {what}; {excellent:,} would be excellent"
    return "excellent", f"as much as {what} usually profits from"


def _texts(row: Conversation) -> tuple[list[str], list[str]]:
    """The row's text that is only read, and the text that is trained on; one item per message."""
    if row.text is not None:
        return [], [row.text]
    read: list[str] = []
    trained: list[str] = []
    for index, message in enumerate(row.messages):
        (trained if _supervised(row, index) else read).append(_message_text(message))
    return read, trained


def _supervised(row: Conversation, index: int) -> bool:
    message = row.messages[index]
    return message.role == "assistant" and message.weight != 0 and index >= (row.completion_start or 0)


def _message_text(message: Message) -> str:
    calls = [f"{call.name} {call.arguments}" for call in message.tool_calls]
    return "\n".join([*([message.thinking] if message.thinking else []), message.content, *calls])


def _tokenized(texts: list[tuple[list[str], list[str]]], file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    flat = [text for parts in texts for part in parts for text in part]
    sizes = iter(len(encoding.ids) for encoding in tokenizer.encode_batch(flat, add_special_tokens=False))
    return np.array([[sum(next(sizes) + TEMPLATE_TOKENS for _ in part) for part in parts] for parts in texts])


def _openai_tokens(texts: list[tuple[list[str], list[str]]]) -> int | None:
    """Tokens by OpenAI's tokenizer; None where tiktoken or its file is missing: planning asks no network."""
    if not _tiktoken_file().is_file():
        return None
    try:
        import tiktoken

        encoding = tiktoken.get_encoding(OPENAI_ENCODING)
    except (ImportError, OSError, ValueError):  # a damaged file is asked for again, and there may be no network
        return None
    return sum(
        len(encoding.encode_ordinary(text)) + TEMPLATE_TOKENS for parts in texts for part in parts for text in part
    )


def _tiktoken_file() -> Path:
    """Where tiktoken keeps the encoding once it was downloaded: under the hash of its address."""
    address = f"https://openaipublic.blob.core.windows.net/encodings/{OPENAI_ENCODING}.tiktoken"
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    root = Path(folder) if folder else Path(tempfile.gettempdir()) / "data-gym-cache"
    return root / hashlib.sha1(address.encode(), usedforsecurity=False).hexdigest()


def _estimated(texts: list[tuple[list[str], list[str]]]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array(
        [
            [sum(len(text) // CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS for text in part) for part in parts]
            for parts in texts
        ]
    )


def _tokenizer_file(model: str) -> Path | None:
    folder = Path(resolve_model(model))
    if folder.is_dir():
        file = folder / "tokenizer.json"
        return file if file.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, "tokenizer.json")
    return Path(cached) if isinstance(cached, str) else None
