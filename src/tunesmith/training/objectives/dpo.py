"""Direct preference optimization (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290) and IPO.

The log-probabilities of the chosen and the rejected reply, each against the reference's, are two implicit rewards;
the loss is that of a classifier which tells them apart. IPO (Azar et al. 2023, https://arxiv.org/abs/2310.12036)
wants the margin to be 1/(2β) and no more; as in TRL, and as its authors confirmed there, it compares means per token.

With `sft_weight` the chosen replies are imitated, too, which keeps their likelihood from falling with that of the
rejected (RPO, Pang et al. 2024, https://arxiv.org/abs/2404.19733): TRL's `loss_type: [sigmoid, sft]`, whose mean is
over tokens. There it is that of a micro-batch; here it is the step's, so it does not depend on how the step is cut.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it

from tunesmith.training.batches import MicroBatch
from tunesmith.training.objectives import Loss, MeanLoss, Measure, Validation
from tunesmith.training.preference import Pair, chosen_and_rejected, pair_measures
from tunesmith.training.token_loss import TokenLoss

if TYPE_CHECKING:
    from tunesmith.models.load import Model


class Dpo:
    """−log σ(β (Δ chosen − Δ rejected)), or IPO's squared distance; Δ is the log-ratio to the reference.

    And `sft_weight` times the loss per token of the chosen replies.
    """

    updates = 1
    reads_forest = True

    def __init__(
        self, model: "Model", *, loss_type: Literal["sigmoid", "ipo"], beta: float, sft_weight: float = 0.0
    ) -> None:
        self._token_loss = TokenLoss(model)
        self._loss_type = loss_type
        self._beta = beta
        self._sft_weight = sft_weight

    def prepare(self, examples: Sequence[Pair], seed: int) -> Sequence[Pair]:
        """The pairs as they are, or with what a chosen token's own loss weighs: the step is divided by its pairs."""
        if not self._sft_weight:
            return examples
        weight = self._sft_weight * len(examples) / max(1, sum(pair.chosen.targets for pair in examples))
        return [replace(pair, imitated=weight) for pair in examples]

    def weight(self, examples: Sequence[Pair]) -> float:
        """Pairs: each counts the same, however long it is."""
        return len(examples)

    def loss(self, batch: MicroBatch[Pair]) -> Loss:
        """Summed over the pairs."""
        losses = self._token_loss.of(batch)
        reference = losses.new_tensor([pair.reference for pair in batch.examples])  # (pairs, 2)
        chosen, rejected = chosen_and_rejected(batch, losses)  # (pairs,) each
        chosen_ratio, rejected_ratio = chosen - reference[:, 0], rejected - reference[:, 1]
        if self._loss_type == "ipo":
            tokens = batch.row_sums(torch.ones_like(losses))
            margin = chosen_ratio / tokens[0::2] - rejected_ratio / tokens[1::2]
            total = ((margin - 1 / (2 * self._beta)) ** 2).sum()
        else:
            total = -F.logsigmoid(self._beta * (chosen_ratio - rejected_ratio)).sum()
        measures = pair_measures(self._beta * chosen_ratio, self._beta * rejected_ratio)
        if self._sft_weight:
            total = total - (chosen.new_tensor([pair.imitated for pair in batch.examples]) * chosen).sum()
            measures["sft_loss"] = Measure(-chosen.detach().sum(), sum(pair.chosen.targets for pair in batch.examples))
        return Loss(total, measures)

    def validate(self, examples: Sequence[Pair], mean_loss: MeanLoss[Pair]) -> Validation:
        """The same loss on held-out pairs."""
        return mean_loss(self.prepare(examples, 0))
