"""How surprised a model is by held-out replies: negative log-likelihood per row, on the supervised tokens only.

Kept per row, because a comparison is paired by rows. Rows are padded on the right, where causal attention needs no
mask; the head runs only from the first position it is asked about (a model that ignores `logits_to_keep` gives the
same numbers, for more memory). Loss rows are never sampled: all of them are scored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from numpy.typing import NDArray

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

BATCH_TOKENS = 4096
"""Padded tokens of one forward pass; a longer row goes alone."""

CHUNK_LOGITS = 2**25
"""Logits turned to fp32 at once (128 MiB)."""


class TrainableRow(Protocol):
    """A rendered row: `tokens` int32 (tokens,), `supervised` bool (tokens,), True where the token is a target."""

    @property
    def tokens(self) -> NDArray[np.int32]: ...  # noqa: D102
    @property
    def supervised(self) -> NDArray[np.bool_]: ...  # noqa: D102


@dataclass(frozen=True)
class RowLosses:
    """Per row: the negative log-likelihood in nats, summed over its `tokens` supervised tokens; both (rows,) fp64."""

    nll: NDArray[np.float64]
    tokens: NDArray[np.float64]


@torch.inference_mode()
def row_losses(model: "PreTrainedModel | PeftModel", rows: Sequence[TrainableRow]) -> RowLosses:
    """Score every row, in the order of `rows`. The first token of a row is never a target: nothing predicts it."""
    nll = np.zeros(len(rows))
    counts = np.array([row.supervised[1:].sum() for row in rows], dtype=np.float64)
    for batch in _batches(rows):
        input_ids, predicting = _pad_right([rows[index] for index in batch])
        start = int(predicting.any(dim=0).int().argmax())  # the first column that predicts a target
        keep = input_ids.shape[1] - start
        output = model(input_ids=input_ids.to(model.device), use_cache=False, logits_to_keep=keep)
        logits = output.logits[:, -keep:]  # (rows, keep, vocab)
        row, column = predicting[:, start:].nonzero(as_tuple=True)  # (targets,) each
        targets = input_ids[row, column + start + 1]
        size = max(1, CHUNK_LOGITS // logits.shape[-1])
        for first in range(0, len(targets), size):
            chunk = slice(first, first + size)
            selected = logits[row[chunk].to(logits.device), column[chunk].to(logits.device)].float()  # (chunk, vocab)
            losses = F.cross_entropy(selected, targets[chunk].to(logits.device), reduction="none")
            np.add.at(nll, np.array(batch)[row[chunk].numpy()], losses.double().cpu().numpy())
    return RowLosses(nll, counts)


def _batches(rows: Sequence[TrainableRow]) -> Iterator[list[int]]:
    """Row indices by ascending length, cut at `BATCH_TOKENS` padded tokens."""
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: len(rows[index].tokens)):
        if batch and (len(batch) + 1) * len(rows[index].tokens) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _pad_right(rows: list[TrainableRow]) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids, and where the *next* token is a target; both (rows, longest)."""
    longest = max(len(row.tokens) for row in rows)
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    predicting = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        input_ids[index, : len(row.tokens)] = torch.from_numpy(row.tokens.astype(np.int64))
        predicting[index, : len(row.tokens) - 1] = torch.from_numpy(row.supervised[1:].copy())
    return input_ids, predicting
