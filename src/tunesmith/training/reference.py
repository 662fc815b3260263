"""What the reference of a preference objective thinks of each reply: one pass before training, kept on the disk.

The reference is the model that training starts from: the base with its adapter off. Since the pass comes before the
first step (and before a checkpoint is restored), a model that is trained in full is its own reference then, and no
second copy of it is ever held. The cache's key is made of the rows' tokens and the base's weights, so it cannot be
stale; hashing the weights costs about a second per gigabyte, of which ranks with a sharded model do a part each.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunesmith import cache
from tunesmith.spec import AdapterSpec
from tunesmith.training import ranks
from tunesmith.training.batches import Example, Row
from tunesmith.training.checkpoint import storage_errors
from tunesmith.training.data import TrainingData
from tunesmith.training.fast_layers import use_fast_layers
from tunesmith.training.forest_attention import use_forest_attention
from tunesmith.training.preference import Judged, Pair
from tunesmith.training.sharding import give_back, is_sharded, own_part
from tunesmith.training.token_loss import TokenLoss, row_logps, token_logps

if TYPE_CHECKING:
    from tunesmith.models.load import Model


def with_reference(data: TrainingData, model: "Model", adapter: AdapterSpec, *, bf16: bool) -> TrainingData:
    """`data` with the reference's log-probabilities in its pairs and judged replies; `model` as training starts it."""
    rows = [row for example in (*data.train, *data.validation) for row in _compared(example)]
    path = cache.entry("reference", f"{_key(rows, model, bf16=bf16)}.safetensors")
    logps = _read(path, len(rows))
    if ranks.agree(logps is None) or logps is None:  # all ranks ask the reference, or none
        logps = reference_logps(model, adapter, rows, bf16=bf16)
        if ranks.is_main():
            cache.keep(path, lambda temporary: _write(temporary, logps))
    values = iter(logps.tolist())

    def known(example: Example) -> Example:
        if isinstance(example, Pair | Judged):
            return replace(example, reference=(next(values), next(values)))
        return example

    return replace(
        data,
        train=tuple(known(example) for example in data.train),
        validation=tuple(known(example) for example in data.validation),
    )


class Reference:
    """The reference of an online objective, asked about new replies at every step."""

    def __init__(self, model: "Model", adapter: AdapterSpec, *, temperature: float = 1.0) -> None:
        """`model` as training starts it; when all of it learns, a copy of its parameters (of a rank's part) is made.

        `temperature` is that of the policy that is compared with it.
        """
        self._adapter = adapter
        self._model = model
        learns = not isinstance(model, PeftModel)
        self._start = [own_part(value.detach()).clone() for value in model.parameters()] if learns else []
        self._token_loss = TokenLoss(self._model, temperature=temperature)

    def token_logps(self, rows: Sequence[Row]) -> list[Tensor]:
        """Log-probabilities of each row's supervised tokens: a tensor (supervised,) per row."""
        training = self._model.training
        self._model.eval()
        try:
            with adapter_off(self._model, self._adapter), self._at_start():
                return token_logps(self._token_loss, rows)
        finally:
            self._model.train(training)

    @contextlib.contextmanager
    def _at_start(self) -> Iterator[None]:
        """The model with the parameters that training started from."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        if not self._start:
            return
        give_back(self._model)
        for parameter, other in zip(self._model.parameters(), self._start, strict=True):
            own = own_part(parameter.detach())
            kept = own.clone()
            own.copy_(other)
            other.copy_(kept)
        torch.clear_autocast_cache()  # it holds the parameters in bf16


@torch.no_grad()
def reference_logps(model: "Model", adapter: AdapterSpec, rows: Sequence[Row], *, bf16: bool) -> Tensor:
    """Log-probability of each row's supervised tokens, summed (rows,), under the model that training starts from."""
    use_fast_layers(model, planted=use_forest_attention(model))
    device = next(model.parameters()).device
    token_loss = TokenLoss(model)
    training = model.training
    model.eval()
    autocast = torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
    try:
        with adapter_off(model, adapter), autocast:
            logps = ranks.each(rows, lambda own: row_logps(token_loss, own).tolist(), in_step=is_sharded(model))
            return torch.tensor(logps, dtype=torch.float64)
    finally:
        model.train(training)


@contextlib.contextmanager
def adapter_off(model: "Model", adapter: AdapterSpec) -> Iterator[None]:
    """The model as its base; an adapter that took a part of the base's weights gives it back only while it is on."""
    if isinstance(model, PeftModel) and not adapter.rewrites_base:
        with model.disable_adapter():
            yield
    else:
        yield


def _compared(example: Example) -> tuple[Row, ...]:
    match example:
        case Pair():
            return (example.chosen, example.rejected)
        case Judged():
            return (example.row, example.mismatched)
        case _:
            return ()


def _key(rows: Sequence[Row], model: "Model", *, bf16: bool) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(b"bf16" if bf16 else b"fp32")
    for row in rows:
        digest.update(len(row.tokens).to_bytes(8, "little") + row.tokens.tobytes() + row.supervised.tobytes())
    adapted = isinstance(model, PeftModel)
    for name, parameter in model.named_parameters():
        if not (adapted and parameter.requires_grad):
            digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
            digest.update(own_part(parameter.detach()).contiguous().view(torch.uint8).cpu().numpy().data)
    if is_sharded(model):
        digest = hashlib.blake2b("".join(ranks.gather(digest.hexdigest())).encode(), digest_size=16)
    return digest.hexdigest()


def _read(path: Path, rows: int) -> Tensor | None:
    """The cached log-probabilities; None when they are not there or damaged, as what can be made again may be."""
    try:
        logps = load_file(path)["logps"]
    except (OSError, SafetensorError, KeyError):
        return None
    return logps if len(logps) == rows else None


def _write(path: Path, logps: Tensor) -> None:
    with storage_errors(path):
        save_file({"logps": logps}, path)
