"""What the numbers mean, in words: did it help, did it overfit, did it forget; each with its evidence and its mend.

The signs are the field's usual ones (validation loss rises while training loss falls, and so on); the thresholds that
turn a sign into a verdict are named here. They are set wide enough that the noise of a few dozen rows raises no alarm,
at the price of noticing late.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tunesmith.evaluation.result import Estimate, MetricComparison, Verdict
from tunesmith.evaluation.statistics import minimal_detectable_effect
from tunesmith.training.events import EndEvent, EvalEvent, StepEvent, read_events

RISE = 0.02
"""Validation loss this far above its minimum, as a share of it, has risen: the classic overfitting curve."""

FLAT = 0.01
"""Validation loss that falls by less than this share over half of the run has stopped falling."""

FALL = 0.10
"""Training loss that falls by this share over the same half is still falling: memorization starts."""

LEARNED_BY_HEART = 0.05
"""Nats per token; a training loss below it gives every token 95% on average (exp(-0.05))."""

FEW_ROWS = 20
"""Fewer rows prove nothing: bootstrap intervals of a handful are far too narrow (Hesterberg 2015, "What Teachers Should
Know About the Bootstrap", The American Statistician 69:371)."""

NOISE = 0.02
"""Nats per token; no change of a loss smaller than this is a sign of anything."""

ALREADY_GOOD = 0.95
"""A base model that scores this much needs no fine-tuning."""

FORGOTTEN = 0.10
"""Loss on general text this far above the base's, as a share of it, is forgetting, and twice as far is catastrophic."""


@dataclass(frozen=True)
class Curves:
    """Validation losses by step, and the mean training loss of the steps since the evaluation before; same length."""

    steps: tuple[int, ...]
    training: tuple[float, ...]
    validation: tuple[float, ...]
    kept_step: int | None


def read_curves(events: Path) -> Curves:
    """The loss curves in a run's `events.jsonl`; empty when there is no such file or nothing was evaluated.

    A last line that a crash cut short is not read.
    """
    steps: list[int] = []
    training: list[float] = []
    validation: list[float] = []
    kept_step = None
    since: list[float] = []
    for event in read_events(events):
        match event:
            case StepEvent():
                since.append(event.loss)
            case EvalEvent() if since:
                steps.append(event.step)
                training.append(float(np.mean(since)))
                validation.append(event.loss)
                since = []
            case EndEvent():
                kept_step = event.best_step
            case _:
                pass
    return Curves(tuple(steps), tuple(training), tuple(validation), kept_step)


def judge_help(headline: MetricComparison, loss: MetricComparison) -> Verdict:
    """Whether fine-tuning helped, by the headline metric first and the loss second."""
    before, after = _shown(headline, headline.base.value), _shown(headline, headline.tuned.value)
    evidence = f"{headline.name} {_interval(headline)} on {headline.rows} rows; loss {_interval(loss)}"

    def verdict(status: Literal["good", "warn", "bad"], finding: str, mend: str) -> Verdict:
        return Verdict("did it help", status, finding, evidence, mend)

    if headline.rows < FEW_ROWS:
        return verdict(
            "warn",
            f"Too few rows to say: {headline.name} {before} before, {after} now, on {headline.rows} rows.",
            f"Evaluate on {FEW_ROWS} or more rows that it has not seen, better 100 (--data FILE, or data.holdout).",
        )
    if headline.significant and _improved(headline):
        return verdict("good", f"Fine-tuning helped: {headline.name} went from {before} to {after}.", "")
    if headline.significant:
        return verdict(
            "bad",
            f"Fine-tuning hurt: {headline.name} went from {before} to {after}.",
            "Keep the base model; check the data (tunesmith data check), then lower the learning rate or the epochs.",
        )
    visible = _points(headline, minimal_detectable_effect(headline.difference))
    if headline.name != loss.name and headline.base.value >= ALREADY_GOOD:
        return verdict(
            "warn",
            f"The base model was already good enough: its {headline.name} is {before}, the tuned model's {after}.",
            "Use the base model with a prompt; fine-tune only for what it gets wrong.",
        )
    if loss.significant and _improved(loss):
        return verdict(
            "warn",
            f"The tuned model's loss is lower, but its {headline.name} shows no difference ({before}, now {after}).",
            f"These rows show a difference of {visible} or more: hold out more rows, or train longer.",
        )
    return verdict(
        "warn",
        f"No difference that these rows can show: {headline.name} {before} before, {after} now.",
        f"They show a difference of {visible} or more: hold out more rows, or train longer on more data.",
    )


def judge_fit(curves: Curves) -> Verdict:
    """Whether the run overfitted, by its training and validation curves."""
    if not curves.steps:
        return Verdict(
            "overfitting",
            "warn",
            "No validation loss was measured while training, so overfitting cannot be seen.",
            "no evaluation in events.jsonl",
            "Hold out 10 to 20% of the rows (data.holdout: 0.1).",
        )
    best = int(np.argmin(curves.validation))
    lowest, last = curves.validation[best], curves.validation[-1]
    first_training, last_training = curves.training[0], curves.training[-1]
    evidence = (
        f"validation loss {lowest:.3f} at step {curves.steps[best]}, {last:.3f} at step {curves.steps[-1]}; "
        f"training loss {first_training:.3f}, then {last_training:.3f}"
    )
    rose = last - lowest > max(NOISE, RISE * lowest)
    if rose and last_training < curves.training[best]:
        if curves.kept_step == curves.steps[best]:
            return Verdict(
                "overfitting",
                "warn",
                f"Validation loss rose after step {curves.steps[best]} while training loss fell; "
                "the weights of that step were kept.",
                evidence,
                "Nothing is lost; fewer epochs would save time, more data would help more.",
            )
        return Verdict(
            "overfitting",
            "bad",
            f"Overfitted: validation loss rose after step {curves.steps[best]} while training loss fell.",
            evidence,
            "Train for fewer epochs or with training.early_stopping, or add data.",
        )
    if last_training < LEARNED_BY_HEART and last - last_training > max(NOISE, last_training):
        return Verdict(
            "overfitting",
            "warn",
            "The training rows are learned by heart, the held-out rows are not.",
            evidence,
            "Add data, or regularize: a lower adapter.r, adapter.dropout: 0.05, fewer epochs.",
        )
    half = len(curves.steps) // 2
    flat = curves.validation[half] - last < max(NOISE, FLAT * last)
    falling = curves.training[half] - last_training > max(NOISE, FALL * curves.training[half])
    if len(curves.steps) > 2 and flat and falling:
        return Verdict(
            "overfitting",
            "warn",
            f"Memorization is starting: since step {curves.steps[half]} only the training loss falls.",
            evidence,
            "Stop earlier (training.early_stopping), or add data.",
        )
    return Verdict("overfitting", "good", "No sign of overfitting in the loss curves.", evidence, "")


def judge_retention(loss: MetricComparison) -> Verdict:
    """Whether the tuned model forgot: its loss on general text it was not tuned for, against its base's."""
    rise = loss.difference.value / loss.base.value
    evidence = f"{loss.name} {_interval(loss)} on {loss.rows} general rows"
    if loss.difference.low <= 0 or rise < FORGOTTEN:
        return Verdict("forgetting", "good", "No sign of forgetting on general text.", evidence, "")
    return Verdict(
        "forgetting",
        "bad" if rise >= 2 * FORGOTTEN else "warn",
        f"The tuned model forgot: its loss on general text is {rise:.0%} higher than the base's.",
        evidence,
        "Lower the learning rate, train for fewer epochs, or mix general rows into the training data "
        "(LoRA forgets less than full fine-tuning).",
    )


def _improved(metric: MetricComparison) -> bool:
    return (metric.difference.value > 0) == (metric.better == "higher")


def _is_share(metric: MetricComparison) -> bool:
    return metric.better == "higher"  # every score is 0 to 1; losses have no upper end


def _shown(metric: MetricComparison, value: float) -> str:
    return f"{value:.0%}" if _is_share(metric) else f"{value:.3f}"


def _points(metric: MetricComparison, value: float) -> str:
    return f"{100 * value:.0f} points" if _is_share(metric) else f"{value:.3f}"


def _interval(metric: MetricComparison) -> str:
    difference: Estimate = metric.difference
    if _is_share(metric):
        value, low, high = (100 * part for part in (difference.value, difference.low, difference.high))
        return f"{value:+.0f} points (95% interval {low:+.0f} to {high:+.0f})"
    return f"{difference.value:+.3f} (95% interval {difference.low:+.3f} to {difference.high:+.3f})"
