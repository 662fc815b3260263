"""Tokenized data on the disk: a run's rows as the model sees them, made once and mapped into memory by every later run.

The entry's name is made of all that the tokens depend on: the bytes of the data files, the tokenizer and its template,
the split, `max_length`, and the code that reads and renders. So it is never stale, and a run that finds it reads
neither the files' rows nor the template. It is an Arrow file: 5 bytes a token, mapped, so processes share its pages.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tunesmith import cache
from tunesmith.dataset.render import Rendered, Renderer
from tunesmith.errors import StorageError
from tunesmith.spec import RunSpec
from tunesmith.storage import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 8192
"""Rows that are turned into Arrow arrays together."""

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
    path = cache.entry("tokenized", f"{key}.arrow")
    found = _read(path)
    if found is not None:
        return found
    made = make()
    try:
        with atomic_file(path) as temporary:
            _write(temporary, made)
    except StorageError as error:
        log.warning("the tokenized rows are not cached: %s", error)
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
    import pyarrow as pa

    said = {
        b"train": str(len(rows.train)).encode(),
        b"judgements": np.array(rows.judgements, np.bool_).tobytes(),
        b"holdout": rows.holdout,
    }
    every = [*rows.train, *rows.validation]
    schema = _schema().with_metadata(said)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for start in range(0, len(every), ROWS_AT_ONCE):
            writer.write_batch(_batch(every[start : start + ROWS_AT_ONCE]))


def _schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        {
            "tokens": pa.large_list(pa.int32()),
            "supervised": pa.large_list(pa.uint8()),  # Arrow packs its own booleans into bits, which cannot be mapped
            "truncated": pa.bool_(),
            "supervised_lost": pa.int32(),
        }
    )


def _batch(rows: Sequence[Rendered]) -> "pa.RecordBatch":
    import pyarrow as pa

    ends = pa.array(np.cumsum([0, *(len(row.tokens) for row in rows)]), pa.int64())
    tokens = pa.array(np.concatenate([row.tokens for row in rows]))
    supervised = pa.array(np.concatenate([row.supervised for row in rows]).view(np.uint8))
    columns = [
        pa.LargeListArray.from_arrays(ends, tokens),
        pa.LargeListArray.from_arrays(ends, supervised),
        pa.array([row.truncated for row in rows]),
        pa.array([row.supervised_lost for row in rows], pa.int32()),
    ]
    return pa.record_batch(columns, schema=_schema())


def _read(path: Path) -> Tokenized | None:
    """The entry; None when it is not there or damaged, as what can be made again may be."""
    if not path.is_file():
        return None
    import pyarrow as pa

    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowException) as error:
        log.warning("%s: damaged, and made again (%s)", path, error)
        return None
    rows: list[Rendered] = []
    for batch in table.to_batches():
        ends = batch["tokens"].offsets.to_numpy()
        tokens = batch["tokens"].values.to_numpy()
        supervised = batch["supervised"].values.to_numpy().view(np.bool_)
        spans = zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
        facts = zip(batch["truncated"].to_pylist(), batch["supervised_lost"].to_pylist(), strict=True)
        rows += [
            Rendered(tokens[start:end], supervised[start:end], truncated, lost)
            for (start, end), (truncated, lost) in zip(spans, facts, strict=True)
        ]
    said = table.schema.metadata
    train = int(said[b"train"])
    judgements = np.frombuffer(said[b"judgements"], np.bool_).tolist()
    return Tokenized(rows[:train], rows[train:], judgements, said[b"holdout"])
