"""Examples for learning from judgements: pairs of a chosen and a rejected reply, and single replies called good or bad.

A pair's two rows share a micro-batch, since their loss compares them. What the reference thinks of a row never changes
during a run, so it is computed once (`tunesmith.training.reference`) and kept with the example.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from tunesmith.dataset.conversation import Conversation
from tunesmith.errors import DataError
from tunesmith.training.batches import MicroBatch, Row
from tunesmith.training.objectives import Measure


@dataclass(frozen=True, slots=True)
class Pair:
    """A chosen and a rejected reply to one prompt; `reference` holds the reference's log-probability of each.

    `imitated` is what the loss of each of the chosen reply's tokens weighs, set when a step begins that imitates it.
    """

    chosen: Row
    rejected: Row
    reference: tuple[float, float] | None = None
    imitated: float = 0.0

    @property
    def rows(self) -> tuple[Row, ...]:
        """Chosen, then rejected."""
        return (self.chosen, self.rejected)


@dataclass(frozen=True, slots=True)
class Judged:
    """One reply called desirable or not, and the same prompt with another row's reply, for KTO's estimate of drift.

    `reference` holds the reference's log-probability of the reply and of the mismatched one; `drift` is the step's
    estimate, set when the step begins.
    """

    row: Row
    mismatched: Row
    desirable: bool
    reference: tuple[float, float] | None = None
    drift: float = 0.0

    @property
    def rows(self) -> tuple[Row, ...]:
        """The reply that was judged."""
        return (self.row,)


def both_replies(rows: Sequence[Conversation]) -> list[Conversation]:
    """Each row with its chosen reply, followed by the row with its rejected one. Raises DataError for other rows."""
    replies = []
    for row in rows:
        if not row.rejected:
            raise DataError(
                f"{row.source}: no rejected reply to compare with; this objective needs rows with prompt, chosen and "
                "rejected, or use objective.kind: sft"
            )
        replies += [row, msgspec.structs.replace(row, messages=(*row.prompt, *row.rejected))]
    return replies


def must_be_judged(rows: Sequence[Conversation]) -> None:
    """Raise DataError unless every row is a single reply called desirable or not."""
    for row in rows:
        if row.desirable is None:
            raise DataError(
                f"{row.source}: the reply is not judged; loss_type: kto needs rows with prompt, completion and "
                "label (true or false), or use loss_type: sigmoid on pairs"
            )


def pair_measures(chosen: Tensor, rejected: Tensor) -> dict[str, Measure]:
    """TRL's measures of a batch of pairs, from the implicit rewards of both replies; each (pairs,)."""
    chosen, rejected = chosen.detach(), rejected.detach()
    return {
        "rewards/chosen": Measure(chosen.sum(), len(chosen)),
        "rewards/rejected": Measure(rejected.sum(), len(chosen)),
        "rewards/margins": Measure((chosen - rejected).sum(), len(chosen)),
        "rewards/accuracies": Measure((chosen > rejected).float().sum(), len(chosen)),
    }


def chosen_and_rejected(batch: MicroBatch[Pair], losses: Tensor, *, mean: bool = False) -> tuple[Tensor, Tensor]:
    """Log-probabilities of both replies of each pair (pairs,), from the losses (supervised,) of their tokens.

    They are summed over a reply's tokens, or with `mean` averaged over them.
    """
    logps = -batch.row_sums(losses)  # (2 * pairs,)
    if mean:
        logps = logps / batch.row_sums(torch.ones_like(losses))
    return logps[0::2], logps[1::2]
