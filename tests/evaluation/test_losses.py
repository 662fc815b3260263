"""Losses per row equal the plain cross-entropy of each row alone."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from transformers import LlamaForCausalLM

from tunesmith.evaluation import losses as module
from tunesmith.evaluation.losses import row_losses


@dataclass(frozen=True)
class Row:
    tokens: np.ndarray
    supervised: np.ndarray


def some_rows(count: int) -> list[Row]:
    random = np.random.default_rng(0)
    lengths = random.integers(4, 40, size=count)
    return [
        Row(random.integers(9, 64, size=n).astype(np.int32), np.arange(n) >= random.integers(0, n - 1)) for n in lengths
    ]


def plain(model: LlamaForCausalLM, row: Row) -> float:
    tokens = torch.from_numpy(row.tokens.astype(np.int64))
    with torch.inference_mode():
        logits = model(tokens[None]).logits[0, :-1]
    each = F.cross_entropy(logits.double(), tokens[1:], reduction="none").numpy()
    return float(each[row.supervised[1:]].sum())


def test_each_row_has_the_loss_it_has_alone(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_TOKENS", 100)
    monkeypatch.setattr(module, "CHUNK_LOGITS", 64 * 7)
    rows = some_rows(15)
    found = row_losses(model, rows)
    assert found.nll == pytest.approx([plain(model, row) for row in rows], rel=1e-5)
    assert found.tokens.tolist() == [row.supervised[1:].sum() for row in rows]


def test_a_model_that_ignores_logits_to_keep_gives_the_same(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = some_rows(6)
    expected = row_losses(model, rows).nll
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda logits_to_keep=0, **kwargs: forward(**kwargs))
    assert row_losses(model, rows).nll == pytest.approx(expected, rel=1e-6)
