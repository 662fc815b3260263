"""Odds-ratio preference optimization (Hong et al. 2024, https://arxiv.org/abs/2403.07691): no reference, one stage.

Imitating the chosen reply and a penalty on the odds of the rejected one, with the paper's likelihoods: geometric means
over a reply's tokens. TRL adds the prompt's tokens to the first term and averages it over tokens; here both terms are
means over pairs and see replies only, as in the paper's equation 6.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it

from tunesmith.training.batches import MicroBatch
from tunesmith.training.objectives import Loss, MeanLoss, Measure, Validation
from tunesmith.training.preference import Pair, chosen_and_rejected, pair_measures
from tunesmith.training.token_loss import TokenLoss

if TYPE_CHECKING:
    from tunesmith.models.load import Model


class Orpo:
    """−log P(chosen) − β log σ(log odds(chosen) − log odds(rejected))."""

    updates = 1
    reads_forest = True

    def __init__(self, model: "Model", *, beta: float) -> None:
        self._token_loss = TokenLoss(model)
        self._beta = beta

    def prepare(self, examples: Sequence[Pair], seed: int) -> Sequence[Pair]:
        """The pairs as they are."""
        return examples

    def weight(self, examples: Sequence[Pair]) -> float:
        """Pairs."""
        return len(examples)

    def loss(self, batch: MicroBatch[Pair]) -> Loss:
        """Summed over the pairs."""
        chosen, rejected = chosen_and_rejected(batch, self._token_loss.of(batch), mean=True)  # (pairs,) each
        log_odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
        total = (-chosen - self._beta * F.logsigmoid(log_odds)).sum()
        measures = pair_measures(self._beta * chosen, self._beta * rejected)
        return Loss(total, measures | {"log_odds_chosen": Measure(log_odds.detach().sum(), len(batch.examples))})

    def validate(self, examples: Sequence[Pair], mean_loss: MeanLoss[Pair]) -> Validation:
        """The same loss on held-out pairs."""
        return mean_loss(examples)


def _log1mexp(values: torch.Tensor) -> torch.Tensor:
    """log(1 − exp(x)) for x < 0, by whichever of two forms is exact (Mächler 2012)."""
    near_zero = values > -0.6931472  # −log 2
    # A reply that is certain (x = 0) has infinite odds: kept a hair below, it gives a large number instead.
    below = values.clamp(max=-1e-7)
    # Each form is given only the values that it takes: the gradient of the one not chosen must be finite too.
    small = torch.log(-torch.expm1(torch.where(near_zero, below, -1.0)))
    large = torch.log1p(-torch.exp(torch.where(near_zero, -1.0, below)))
    return torch.where(near_zero, small, large)
