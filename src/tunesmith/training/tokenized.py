"""Tokenized data on the disk: a run's rows as the model sees them, made once and mapped into memory by every later run.

The entry's name is made of all that the tokens depend on: the bytes of the data files, the tokenizer and its template,
the split, `max_length`, and the code that reads and renders. So it is never stale, and a run that finds it reads
neither the files' rows nor the template. It is a safetensors file: 5 bytes a token, mapped, so processes share its
pages, and read with what a run has loaded anyway.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tunesmith import cache
from tunesmith.dataset.render import Rendered, Renderer
from tunesmith.spec import RunSpec
from tunesmith.training.checkpoint import storage_errors

MADE_BY = ("tunesmith.dataset", "tunesmith.training.data", "tunesmith.training.preference", __name__)
MADE_WITH = ("transformers", "tokenizers", "jinja2")
"""The code whose result an entry is; a change of it makes new ones."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokenized:
    """Rendered rows for training and validation, `judgements` of the training and validation rows where they were
    judged (empty elsewhere), and the rows held out as JSONL."""

    train: Sequence[Rendered]
    validation: Sequence[Rendered]
    judgements: Sequence[bool]
    holdout: bytes


def cached(spec: RunSpec, renderer: Renderer, make: Callable[[], Tokenized]) -> Tokenized:
    """What `make` returns for `spec`, from the cache where it is there; it then lies in mapped memory.

    A cache that cannot be written costs a warning and no run.
    """
    key = _key(spec, renderer)
    if key is None:
        return make()
    path = cache.entry("tokenized", f"{key}.safetensors")
    found = _read(path)
    if found is not None:
        return found
    made = make()
    cache.keep(path, lambda temporary: _write(temporary, made))
    return _read(path) or made


def _key(spec: RunSpec, renderer: Renderer) -> str | None:
    """None when a source is no file (standard input), whose bytes cannot be looked at twice."""
    named = {"train": spec.data.train, "eval": spec.data.eval, "replay": spec.data.replay}
    files = {part: Path(source) for part, source in named.items() if source is not None}
    if not all(file.is_file() for file in files.values()):
        return None
    objective = spec.objective.model_dump(mode="json", include={"kind", "loss_type"})
    return cache.digest(
        cache.code_digest(MADE_BY, MADE_WITH),
        renderer.fingerprint(),
        spec.data.model_dump_json(exclude=set(named)),
        json.dumps([objective, spec.training.max_length, spec.training.seed]),
        # A file's ending says how it is read.
        *(f"{part} {file.suffixes} {cache.file_digest(file)}" for part, file in files.items()),
    )


def _write(path: Path, rows: Tokenized) -> None:
    every = [*rows.train, *rows.validation]
    columns = {
        "ends": np.cumsum([0, *(len(row.tokens) for row in every)], dtype=np.int64),
        "tokens": np.concatenate([row.tokens for row in every]),
        "supervised": np.concatenate([row.supervised for row in every]),
        "truncated": np.array([row.truncated for row in every], np.bool_),
        "supervised_lost": np.array([row.supervised_lost for row in every], np.int64),
        "training": np.arange(len(every)) < len(rows.train),
        "judgements": np.array(rows.judgements, np.bool_),
        "holdout": np.frombuffer(bytearray(rows.holdout), np.uint8),
    }
    with storage_errors(path):
        save_file({name: torch.from_numpy(column) for name, column in columns.items()}, path)


def _read(path: Path) -> Tokenized | None:
    """The entry; None when it is not there or damaged, as what can be made again may be."""
    if not path.is_file():
        return None
    try:
        columns = {name: column.numpy() for name, column in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        log.warning("%s: damaged, and made again (%s)", path, error)
        return None
    tokens, supervised = columns["tokens"], columns["supervised"]
    bounds = zip(columns["ends"][:-1].tolist(), columns["ends"][1:].tolist(), strict=True)
    facts = zip(columns["truncated"].tolist(), columns["supervised_lost"].tolist(), strict=True)
    rows = [
        Rendered(tokens[start:end], supervised[start:end], truncated, lost)
        for (start, end), (truncated, lost) in zip(bounds, facts, strict=True)
    ]
    train = int(columns["training"].sum())
    return Tokenized(rows[:train], rows[train:], columns["judgements"].tolist(), columns["holdout"].tobytes())
