"""Simple preference optimization (Meng et al. 2024, https://arxiv.org/abs/2405.14734): no reference.

The reward is the mean log-probability per token, as generation sees it; the chosen reply must win by γ/β. This is
TRL's CPOTrainer with loss_type simpo and cpo_alpha 0.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F  # noqa: N812  # the field's name for it

from tunesmith.training.batches import MicroBatch
from tunesmith.training.objectives import Loss, MeanLoss, Validation
from tunesmith.training.preference import Pair, chosen_and_rejected, pair_measures
from tunesmith.training.token_loss import TokenLoss

if TYPE_CHECKING:
    from tunesmith.models.load import Model


class Simpo:
    """−log σ(β (mean log P(chosen) − mean log P(rejected)) − γ)."""

    updates = 1
    reads_forest = True

    def __init__(self, model: "Model", *, beta: float, gamma: float) -> None:
        self._token_loss = TokenLoss(model)
        self._beta = beta
        self._gamma = gamma

    def prepare(self, examples: Sequence[Pair], seed: int) -> Sequence[Pair]:
        """The pairs as they are."""
        return examples

    def weight(self, examples: Sequence[Pair]) -> float:
        """Pairs."""
        return len(examples)

    def loss(self, batch: MicroBatch[Pair]) -> Loss:
        """Summed over the pairs."""
        chosen, rejected = chosen_and_rejected(batch, self._token_loss.of(batch), mean=True)  # (pairs,) each
        total = -F.logsigmoid(self._beta * (chosen - rejected) - self._gamma).sum()
        return Loss(total, pair_measures(self._beta * chosen, self._beta * rejected))

    def validate(self, examples: Sequence[Pair], mean_loss: MeanLoss[Pair]) -> Validation:
        """The same loss on held-out pairs."""
        return mean_loss(examples)
