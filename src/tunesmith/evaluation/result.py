"""What an evaluation is: plain values that `evaluation.json`, the report and the command line all show."""

from typing import Literal

from msgspec import Struct


class Estimate(Struct, frozen=True):
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


class MetricComparison(Struct, frozen=True):
    """One metric for base and tuned on the same rows; `difference` is tuned minus base, paired.

    `significant` says that the interval of the difference excludes zero.
    """

    name: str
    better: Literal["higher", "lower"]
    base: Estimate
    tuned: Estimate
    difference: Estimate
    significant: bool
    rows: int
    method: str


class Sample(Struct, frozen=True):
    """One held-out row with what each model said to its prompt; `row` is its position in the held-out set.

    The scores are the headline metric of this row alone, 0 to 1.
    """

    row: int
    prompt: str
    reference: str
    base: str
    tuned: str
    base_score: float = 0.0
    tuned_score: float = 0.0


class Verdict(Struct, frozen=True):
    """A judgement in words: what was found, the numbers it rests on, and what to do about it."""

    name: str
    status: Literal["good", "warn", "bad"]
    finding: str
    evidence: str
    mend: str


class Evaluation(Struct, frozen=True):
    """Everything `tunesmith evaluate` measured. `metrics` are ordered, the headline metric first."""

    run: str
    data: str
    rows: int
    task: str
    metrics: tuple[MetricComparison, ...]
    verdicts: tuple[Verdict, ...]
    samples: tuple[Sample, ...]
    seconds: float
