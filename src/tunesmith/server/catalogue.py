"""Which models there are: the embedded one, folders in the models folder, an allow-list, and what jobs have made.

A model id is only ever looked up, never turned into a path: what is not in one of these lists does not exist.
"""

import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import ModelError, SpecError
from tunesmith.models.load import EMBEDDED, load_model, load_tokenizer, resolve_model
from tunesmith.server.adapters import Adapter
from tunesmith.server.checkpoint_adapter import checkpoint_adapter, remove_checkpoint_adapters
from tunesmith.server.errors import RequestError
from tunesmith.server.generator import Generator
from tunesmith.server.numbers import whole_number
from tunesmith.server.records import ModelRecord
from tunesmith.server.settings import ServerSettings
from tunesmith.server.store import Store
from tunesmith.server.trainer import JobFolder

MAX_LOADED = 2
"""Base models kept in memory; an idle one makes room for the next."""

CHECKPOINT = ":ckpt-step-"
"""Between a fine-tuned model's name and the step of one of its checkpoints, as OpenAI names them."""


@dataclass(frozen=True)
class ModelEntry:
    """A model as clients see it."""

    id: str
    created: float
    owned_by: str


@dataclass(frozen=True)
class ServedModel:
    """What generates for a model id: base weights (as `models.load` takes them) and an adapter over them."""

    id: str
    base: str
    adapter: Adapter | None


class Catalogue:
    """The models of one server and the generators of those in use."""

    def __init__(self, settings: ServerSettings, store: Store) -> None:
        """Raises SpecError or ModelError when a model that was asked for cannot be served."""
        self._settings = settings
        self._store = store
        self._started = time.time()
        self._generators: OrderedDict[str, Generator] = OrderedDict()
        self._loading = threading.Lock()
        if settings.models_dir is not None and not settings.models_dir.is_dir():
            raise SpecError(f"--models {settings.models_dir}: no such folder; it should hold one folder per model")
        for reference in settings.models.values():
            resolve_model(reference)

    def bases(self) -> dict[str, str]:
        """Base model id → what `models.load` accepts. The models folder is looked at anew each time."""
        found = {EMBEDDED: EMBEDDED}
        if self._settings.models_dir is not None:
            for config in sorted(self._settings.models_dir.glob("*/config.json")):
                found[config.parent.name] = str(config.parent)
        return found | dict(self._settings.models)

    def entries(self, owner: str) -> list[ModelEntry]:
        """Every model that `owner` may use."""
        bases = [ModelEntry(name, self._started, "tunesmith") for name in self.bases()]
        return bases + [_entry(record) for record in self._store.list_models(owner)]

    def get(self, owner: str, model_id: str) -> ModelEntry:
        """The model of that id. Raises RequestError 404."""
        entry = next((entry for entry in self.entries(owner) if entry.id == model_id), None)
        if entry is None:
            raise _missing(model_id)
        return entry

    def trainable(self, owner: str, model_id: str) -> ServedModel:
        """What a job over `model_id` starts from: a base model, or a model or checkpoint that `owner`'s jobs made.

        Raises RequestError when it is neither.
        """
        try:
            return self.resolve(owner, model_id) if model_id in self.bases() else self.owned(owner, model_id)
        except RequestError as error:
            raise RequestError(
                f"No model {model_id} that can be fine-tuned; there are your own and {', '.join(sorted(self.bases()))}",
                code="model_not_available",
                param="model",
            ) from error

    def resolve(self, owner: str, model_id: str) -> ServedModel:
        """What generates for `model_id`: a base model, one of `owner`'s, or one that somebody shares with `owner`.

        Raises RequestError 404.
        """
        bases = self.bases()
        if model_id in bases:
            return ServedModel(model_id, bases[model_id], None)
        return self.owned(self._store.who_shares(model_id, owner) or owner, model_id)

    def owned(self, owner: str, model_id: str) -> ServedModel:
        """What generates for `owner`'s own fine-tuned model or checkpoint. Raises RequestError 404."""
        name, checkpoint, step = model_id.partition(CHECKPOINT)
        record = self._store.find_model(owner, name)
        if record is None:
            raise _missing(model_id)
        folder = self._job_folder(record)
        if folder.run.model.is_dir() and not checkpoint:
            return ServedModel(model_id, str(folder.run.model), None)
        base = str(folder.base) if folder.base.is_dir() else self.bases().get(record.base)
        adapter: Path | None = folder.run.adapter
        if checkpoint:
            number = whole_number(step)
            adapter = None if number is None else checkpoint_adapter(folder.run, number)
        if adapter is None or base is None:
            raise _missing(model_id)
        return ServedModel(model_id, base, Adapter(model_id, adapter))

    def generator(self, served: ServedModel) -> Generator:
        """The generator over the model's base, loading it when it is the first to be asked for (seconds to minutes)."""
        with self._loading:
            if served.base not in self._generators:
                self._make_room()
                self._generators[served.base] = _load(served.base)
            self._generators.move_to_end(served.base)
            return self._generators[served.base]

    def generators(self) -> list[Generator]:
        """Those in memory."""
        return list(self._generators.values())

    def delete(self, owner: str, model_id: str, *, request: str | None = None) -> None:
        """Forget a fine-tuned model and remove its weights; `request` as in the store.

        Raises RequestError 404, 403 for a base model, or 409 while a job that has not ended starts from it.
        """
        record = self._store.find_model(owner, model_id)
        if record is None:
            if model_id in self.bases():
                raise RequestError(f"Model {model_id} is a base model and cannot be deleted", status=403, param="model")
            raise _missing(model_id)
        self._store.delete_model(owner, model_id, request=request)
        for generator in self.generators():
            generator.forget(model_id)
        folder = self._job_folder(record)
        run = folder.run
        self._unload((str(run.model), str(folder.base)))
        remove_checkpoint_adapters(run)
        for weights in (run.adapter, run.model, run.merged, run.checkpoints, folder.base):
            shutil.rmtree(weights, ignore_errors=True)

    def close(self) -> None:
        """Stop all generators."""
        for generator in self.generators():
            generator.close()

    def _job_folder(self, record: ModelRecord) -> JobFolder:
        return JobFolder(self._settings.jobs_dir / record.job)

    def _unload(self, bases: Iterable[str]) -> None:
        with self._loading:
            for base in bases:
                generator = self._generators.pop(base, None)
                if generator is not None:
                    generator.close()

    def _make_room(self) -> None:
        for base, generator in list(self._generators.items()):
            if len(self._generators) < MAX_LOADED:
                return
            if generator.idle:
                generator.close()
                del self._generators[base]


def parse_model(text: str) -> tuple[str, str]:
    """`--model` as (id, reference): `NAME=REFERENCE`, or a folder or hub id that gives its own name."""
    name, separator, reference = text.partition("=")
    if separator and name and reference:
        return name, reference
    folder = Path(text).expanduser()
    return (folder.resolve().name if folder.is_dir() else text), text


def _load(reference: str) -> Generator:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    try:
        return Generator(load_model(reference, dtype=dtype, device=device), load_tokenizer(reference))
    except torch.OutOfMemoryError as error:
        raise ModelError(f"model {reference}: does not fit into the memory of {device}") from error


def _entry(record: ModelRecord) -> ModelEntry:
    return ModelEntry(record.id, record.created_at, record.owner)


def _missing(model_id: str) -> RequestError:
    return RequestError(f"No such model: {model_id}", status=404, code="model_not_found", param="model")
