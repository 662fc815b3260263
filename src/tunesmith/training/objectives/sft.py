"""Supervised fine-tuning: the next-token loss on the tokens the model should learn to say."""

from typing import TYPE_CHECKING

from torch import Tensor

from tunesmith.training.batches import MicroBatch
from tunesmith.training.token_loss import TokenLoss

if TYPE_CHECKING:
    from tunesmith.models.load import Model


class Sft:
    """Cross-entropy of the supervised tokens."""

    def __init__(self, model: "Model") -> None:
        self._token_loss = TokenLoss(model)

    def loss(self, batch: MicroBatch) -> Tensor:
        """Negative log-likelihood in nats, summed over the supervised tokens (scalar)."""
        return self._token_loss(batch.input_ids, batch.positions, batch.targets).sum()
