"""A reward model: a scalar head on the base, trained so that the chosen reply scores above the rejected one.

The loss is Bradley-Terry's (https://arxiv.org/abs/2203.02155, section 3.4): −log σ(r(chosen) − r(rejected)). The score
of a reply is read at its last token, which has seen all of it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F  # noqa: N812  # the field's name for it

from tunesmith.training.batches import MicroBatch
from tunesmith.training.objectives import Loss, MeanLoss, Measure, Validation
from tunesmith.training.preference import Pair
from tunesmith.training.scores import Scores

if TYPE_CHECKING:
    from tunesmith.models.load import Model


class Reward:
    """Bradley-Terry on a scalar head; `center_rewards_coefficient` pulls scores towards a mean of zero."""

    updates = 1
    reads_forest = False

    def __init__(self, model: "Model", *, center_rewards_coefficient: float | None) -> None:
        self._scores = Scores(model)
        self._center = center_rewards_coefficient

    def prepare(self, examples: Sequence[Pair], seed: int) -> Sequence[Pair]:
        """The pairs as they are."""
        return examples

    def weight(self, examples: Sequence[Pair]) -> float:
        """Pairs."""
        return len(examples)

    def loss(self, batch: MicroBatch[Pair]) -> Loss:
        """Summed over the pairs."""
        scores = self._scores.of(batch.input_ids, [row for pair in batch.examples for row in pair.rows])
        chosen, rejected = scores[0::2], scores[1::2]  # (pairs,) each
        total = -F.logsigmoid(chosen - rejected).sum()
        if self._center is not None:
            total = total + self._center * ((chosen + rejected) ** 2).sum()
        seen = scores.detach()
        measures = {
            "accuracy": Measure((seen[0::2] > seen[1::2]).float().sum(), len(batch.examples)),
            "margin": Measure((seen[0::2] - seen[1::2]).sum(), len(batch.examples)),
            "mean_reward": Measure(seen.sum(), len(seen)),
        }
        return Loss(total, measures)

    def validate(self, examples: Sequence[Pair], mean_loss: MeanLoss[Pair]) -> Validation:
        """The same loss on held-out pairs."""
        return mean_loss(examples)
