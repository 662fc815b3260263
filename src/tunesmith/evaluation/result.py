"""What an evaluation is: plain values that `evaluation.json`, the report and the command line all show."""

from typing import Literal

from msgspec import Struct

GENERAL_LOSS, DRIFT = "general loss", "drift"

WEIGHED = {GENERAL_LOSS: "forgetting", DRIFT: "drift"}
"""Metrics that nearly every fine-tuning worsens a little → the verdict that says from where on it matters."""

Change = Literal["good", "bad", "none"]
"""What a difference means to whoever wants a better model."""


class Estimate(Struct, frozen=True):
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


class MetricComparison(Struct, frozen=True):
    """One metric for base and tuned on the same rows; `difference` is tuned minus base, paired.

    `significant` says that the interval of the difference excludes zero, `p` how likely one so far from zero is if
    the models do not differ, `detectable` the smallest true difference that so many rows would show with 80% power.
    `prompted` is the base with the best prompt, where there is one, and `over_prompted` tuned minus prompted.
    `top` is the best value a bounded metric can have; `signature` is how the library that computed it states it.
    """

    name: str
    better: Literal["higher", "lower"]
    base: Estimate
    tuned: Estimate
    difference: Estimate
    significant: bool
    rows: int
    method: str
    top: float | None = None
    p: float | None = None
    detectable: float | None = None
    prompted: Estimate | None = None
    over_prompted: Estimate | None = None
    p_over_prompted: float | None = None
    signature: str = ""

    def improves(self, difference: Estimate) -> bool:
        """Whether `difference` points to the better side, surely or not."""
        return (difference.value > 0) == (self.better == "higher")

    def change(self, difference: Estimate) -> Change:
        """What `difference` means, where its interval excludes zero."""
        if difference.low <= 0 <= difference.high:
            return "none"
        return "good" if self.improves(difference) else "bad"


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
    prompted: str | None = None
    prompted_score: float | None = None


class Confusion(Struct, frozen=True):
    """How often each class (row) was answered with each class (column); the last column is no known class."""

    classes: tuple[str, ...]
    base: tuple[tuple[int, ...], ...]
    tuned: tuple[tuple[int, ...], ...]


Status = Literal["good", "note", "warn", "bad"]
"""`note` is something to know or to do next; only `warn` and `bad` are alarms."""


class Verdict(Struct, frozen=True):
    """A judgement in words: what was found, the numbers it rests on, and what to do about it.

    `signal` is the known sign of trouble that it matches.
    """

    name: str
    status: Status
    finding: str
    evidence: str
    mend: str
    signal: str = ""


class Evaluation(Struct, frozen=True):
    """Everything `tunesmith evaluate` measured. `metrics` are ordered, the headline metric first.

    `prompt` is the instruction that the prompted base was given, `examples` how many examples with each question;
    `skipped` says which metrics were not computed and why.
    """

    run: str
    data: str
    rows: int
    task: str
    metrics: tuple[MetricComparison, ...]
    verdicts: tuple[Verdict, ...]
    samples: tuple[Sample, ...]
    seconds: float
    prompt: str | None = None
    examples: int = 0
    confusion: Confusion | None = None
    skipped: tuple[str, ...] = ()

    def change(self, metric: MetricComparison) -> Change:
        """What `metric`'s difference means: of one in `WEIGHED`, a worse value only where its verdict is an alarm."""
        change = metric.change(metric.difference)
        if change != "bad" or metric.name not in WEIGHED:
            return change
        weighed = [verdict.status for verdict in self.verdicts if verdict.name == WEIGHED[metric.name]]
        return "bad" if {"warn", "bad"} & set(weighed) else "none"
