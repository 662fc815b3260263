"""What the verdicts rest on, gathered as plain values: a verdict is a function of these and of nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tunesmith.evaluation.result import MetricComparison
from tunesmith.quality.report import CheckReport
from tunesmith.training.events import Event


@dataclass(frozen=True)
class Memory:
    """What the tuned model does on rows it was trained on, beside rows it has never seen.

    `verbatim` is the share of `rows` training rows whose output it reproduces exactly, `verbatim_base` the base's,
    `held_out` the same share on the held-out rows; the losses are the tuned model's, in nats per token.
    """

    rows: int
    words: float
    verbatim: float
    verbatim_base: float
    held_out: float
    training_loss: float
    held_out_loss: float


@dataclass(frozen=True)
class Leak:
    """How many of the evaluated `rows` are (nearly) training rows."""

    leaked: int
    rows: int


@dataclass(frozen=True)
class AdapterState:
    """Whether the adapter of the `run` folder was merged into the base's weights.

    `overhead` is the share of parameters that it adds.
    """

    merged: bool
    overhead: float | None = None
    run: str = "RUN"


@dataclass(frozen=True)
class Evidence:
    """Everything measured about a run; a part that does not apply to it is None. `tasks` are general ones."""

    headline: MetricComparison
    loss: MetricComparison
    events: Sequence[Event] = field(default_factory=tuple)
    retention: MetricComparison | None = None
    drift: MetricComparison | None = None
    tasks: Sequence[MetricComparison] = ()
    memory: Memory | None = None
    leak: Leak | None = None
    check: CheckReport | None = None
    adapter: AdapterState | None = None
