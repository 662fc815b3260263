"""Supervised fine-tuning: the next-token loss on the tokens the model should learn to say."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.training.batches import MicroBatch, Row
from tunesmith.training.objectives import Loss, MeanLoss, Validation
from tunesmith.training.token_loss import TokenLoss

if TYPE_CHECKING:
    from tunesmith.models.load import Model


class Sft:
    """Cross-entropy of the supervised tokens."""

    updates = 1
    reads_forest = True

    def __init__(self, model: "Model") -> None:
        self._token_loss = TokenLoss(model)

    def prepare(self, examples: Sequence[Row], seed: int) -> Sequence[Row]:
        """The rows as they are."""
        return examples

    def weight(self, examples: Sequence[Row]) -> float:
        """Supervised tokens: every one counts the same, in whatever row it is."""
        return sum(row.targets for row in examples)

    def loss(self, batch: MicroBatch[Row]) -> Loss:
        """Negative log-likelihood in nats, summed over the supervised tokens."""
        return Loss(self._token_loss.of(batch).sum())

    def validate(self, examples: Sequence[Row], mean_loss: MeanLoss[Row]) -> Validation:
        """The same loss on held-out rows."""
        return mean_loss(examples)
