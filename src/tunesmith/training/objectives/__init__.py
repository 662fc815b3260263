"""What the parameters learn from: one file per objective, each turning a micro-batch into a loss."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from torch import Tensor

from tunesmith.training.batches import Example, MicroBatch

E = TypeVar("E", bound=Example)


@dataclass(frozen=True)
class Measure:
    """A mean being added up: `total / count`."""

    total: Tensor | float
    count: float


@dataclass(frozen=True)
class Loss:
    """The loss *summed* over a micro-batch (scalar), and what else there is to see in it, by the field's names."""

    total: Tensor
    measures: Mapping[str, Measure] = field(default_factory=dict)


@dataclass(frozen=True)
class Validation:
    """How the held-out examples fare: a mean `loss` (lower is better) over `weight`, and the measures' means."""

    loss: float
    weight: float
    measures: Mapping[str, float]


class Objective(Protocol[E]):
    """The engine's view of an objective. Adding one is one file with a class of this shape.

    A step is: `prepare` its examples, then `updates` times the loss of its micro-batches, added up and divided by
    `weight`, and an optimizer update. What an objective computes must not depend on how a step is cut.
    """

    updates: int
    reads_forest: bool
    """Whether `loss` takes its tokens' losses from `TokenLoss.of`, which knows micro-batches laid out as a forest."""

    def prepare(self, examples: Sequence[E], seed: int) -> Sequence[E]:
        """What the step trains on, with what must be known before its gradient: an online objective's own rollouts."""
        ...

    def weight(self, examples: Sequence[E]) -> float:
        """What the step's summed loss is divided by."""
        ...

    def loss(self, batch: MicroBatch[E]) -> Loss:
        """The loss summed over the micro-batch."""
        ...

    def validate(self, examples: Sequence[E], mean_loss: "MeanLoss[E]") -> Validation:
        """How held-out examples fare; `mean_loss` runs `loss` over any number of them, without dropout."""
        ...


MeanLoss = Callable[[Sequence[E]], Validation]
