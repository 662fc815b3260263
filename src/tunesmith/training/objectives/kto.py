"""Kahneman-Tversky optimization (Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306): replies judged one by one.

A good reply should gain on the reference by more, and a bad one by less, than replies do in general. How far replies
in general have drifted is estimated once per step, on the step's prompts with other rows' replies, and carries no
gradient; being the step's, it does not depend on how the step is cut.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from tunesmith.training import ranks
from tunesmith.training.batches import MicroBatch, Row
from tunesmith.training.objectives import Loss, MeanLoss, Measure, Validation
from tunesmith.training.preference import Judged
from tunesmith.training.token_loss import TokenLoss, row_logps

if TYPE_CHECKING:
    from tunesmith.models.load import Model


class Kto:
    """w (1 − σ(±β (Δ − drift))), + and the desirable weight for good replies, − and the undesirable for bad ones."""

    updates = 1
    reads_forest = True

    def __init__(self, model: "Model", *, beta: float, desirable_weight: float, undesirable_weight: float) -> None:
        self._token_loss = TokenLoss(model)
        self._beta = beta
        self._weights = {True: desirable_weight, False: undesirable_weight}

    def prepare(self, examples: Sequence[Judged], seed: int) -> Sequence[Judged]:
        """The replies with the step's drift: the mean log-ratio of the mismatched ones, at least 0."""
        torch.manual_seed(seed)
        mismatched = [example.mismatched for example in examples]
        policy = torch.tensor(
            ranks.each(mismatched, self._logps, in_step=self._token_loss.sharded), dtype=torch.float64
        )
        reference = policy.new_tensor([example.reference for example in examples])[:, 1]
        drift = max(0.0, float((policy - reference).mean()))
        return [replace(example, drift=drift) for example in examples]

    def _logps(self, rows: Sequence[Row]) -> list[float]:
        logps: list[float] = row_logps(self._token_loss, rows).tolist()
        return logps

    def weight(self, examples: Sequence[Judged]) -> float:
        """Replies."""
        return len(examples)

    def loss(self, batch: MicroBatch[Judged]) -> Loss:
        """Summed over the replies."""
        logps = -batch.row_sums(self._token_loss.of(batch))  # (rows,)
        signs = logps.new_tensor([1.0 if example.desirable else -1.0 for example in batch.examples])
        weights = logps.new_tensor([self._weights[example.desirable] for example in batch.examples])
        reference = logps.new_tensor([example.reference for example in batch.examples])[:, 0]
        drift = logps.new_tensor([example.drift for example in batch.examples])
        ratios = logps - reference
        total = (weights * (1 - torch.sigmoid(signs * self._beta * (ratios - drift)))).sum()
        rewards = self._beta * ratios.detach()
        good = signs > 0
        measures = {
            "rewards/chosen": Measure(rewards[good].sum(), int(good.sum())),
            "rewards/rejected": Measure(rewards[~good].sum(), int((~good).sum())),
            "rewards/accuracies": Measure(((rewards > self._beta * drift) == good).float().sum(), len(good)),
            "kl": Measure(drift.sum(), len(good)),
        }
        return Loss(total, measures)

    def validate(self, examples: Sequence[Judged], mean_loss: MeanLoss[Judged]) -> Validation:
        """The same loss on held-out replies."""
        return mean_loss(self.prepare(examples, 0))
