"""Scores of a reward model: its scalar head read at each row's last token.

transformers finds that token by looking for padding, which goes wrong where the padding token is also the one that
ends a reply; here the row's length says where it is. Nothing else of the model's forward is replaced.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tunesmith.training.batches import Row, micro_batches
from tunesmith.training.token_budget import TokenBudget

if TYPE_CHECKING:
    from tunesmith.models.load import Model


class Scores:
    """The scalar head of `model` (a sequence classifier with one label), one number per row."""

    def __init__(self, model: "Model") -> None:
        self._model = model
        head = model.get_submodule("base_model.model.score") if hasattr(model, "peft_config") else model.score
        assert isinstance(head, nn.Module)  # noqa: S101  # how transformers names a sequence classifier's head
        self._head = head
        self._budget = TokenBudget(model.device)

    def of(self, input_ids: Tensor, rows: Sequence[Row]) -> Tensor:
        """The score of each of `rows`, padded on the right in `input_ids` (rows, longest); fp32 (rows,)."""
        captured: list[Tensor] = []

        def keep(_head: nn.Module, _arguments: Any, scores: Tensor) -> None:
            captured.append(scores)

        hook = self._head.register_forward_hook(keep)
        try:
            self._model(input_ids=input_ids, use_cache=False)
        finally:
            hook.remove()
        last = torch.tensor([len(row.tokens) - 1 for row in rows], device=input_ids.device)
        return captured[0][torch.arange(len(rows), device=input_ids.device), last, 0].float()

    @torch.no_grad()
    def of_rows(self, rows: Sequence[Row]) -> list[float]:
        """The score of each row, without a gradient, in the order of `rows`."""
        scores: dict[int, float] = {}
        device = self._model.device
        for batch, found in self._budget.passes(
            rows,
            partial(micro_batches, device=device),
            lambda batch: self.of(batch.input_ids.to(device), batch.examples).tolist(),
        ):
            scores |= {id(row): score for row, score in zip(batch.examples, found, strict=True)}
        return [scores[id(row)] for row in rows]
