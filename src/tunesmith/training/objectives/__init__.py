"""What the parameters learn from: one file per objective, each turning a micro-batch into a loss."""

from typing import Protocol

from torch import Tensor

from tunesmith.training.batches import MicroBatch


class Objective(Protocol):
    """The loop's view of an objective. Adding one is one file with a class of this shape."""

    def loss(self, batch: MicroBatch) -> Tensor:
        """The loss *summed* over the micro-batch's supervised tokens (scalar); the loop divides by the step's count."""
        ...
