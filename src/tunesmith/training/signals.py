"""Signs of trouble in a run's curves: one reading of them, live while it trains and again in the report.

Pure functions of the events so far. The signs are the field's usual ones (validation loss rises while training loss
falls, and so on); the thresholds that turn a sign into a verdict are named here, and no change counts that the curve's
own noise could make. They are wide enough that of a hundred healthy noisy runs at most one raises an alarm, two while
it trains, at the price of noticing late (`tests/evaluation/test_alarm_rates.py`).
"""

import math
from collections.abc import Sequence

import numpy as np

from tunesmith.training.curves import LEAST_FOR_NOISE, Curves, noise, read_curves, smooth, sure
from tunesmith.training.events import EndEvent, EvalEvent, Event, StartEvent, StepEvent, VerdictEvent
from tunesmith.training.reward_signals import judge_rewards, read_rewards

RISE = 0.015
"""Validation loss this far above its minimum, as a share of it, has risen: the classic overfitting curve."""

FLAT = 0.01
"""Validation loss that falls by less than this share over half of the run has stopped falling."""

FAR = 3
"""Times as far validation loss must rise at the end of a curve, or in one too short to tell its noise; they add up."""

FALL = 0.10
"""Training loss that falls by this share over the same half is still falling: memorization starts."""

LEARNED_BY_HEART = 0.05
"""Nats per token; a training loss below it gives every token 95% on average (exp(-0.05))."""

NOISE = 0.02
"""Nats per token; no change of a loss smaller than this is a sign of anything."""

GENERALIZES = 4 * LEARNED_BY_HEART
"""Validation loss up to this gives every token 82% on average; rows known so well are not learned by heart."""

UNTOUCHED = 0.05
"""Validation loss that ends less than this share below the base's, with the training loss as flat, learned nothing."""

UNFINISHED = 0.10
"""Validation loss that fell by this share over the last quarter of a run that ended by plan was still on its way."""

DOUBTFUL = 1.5
"""Times as far it must have fallen where the noise cannot be told."""

UNDONE = 0.5
"""Training loss that has lost this share of what it had gained diverges."""

CLIMB = 0.10
"""A climb of the training loss under this share of it is no divergence."""

DIVERGED_MEND = "Lower training.learning_rate, raise training.warmup, or set training.precision: fp32."
DIVERGED_SIGNAL = "the loss climbs or is no number"

LOOK_EVERY = 10
"""Steps between looks at curves that need no evaluation."""

LEAST_EVALUATIONS = 4
"""Fewer evaluations have no last quarter."""

LEAST_STEPS = 8
"""Fewer steps have no trend."""

PARTS = 10
"""Parts that the steps are cut into, to see where the training loss goes."""


def live_signals(events: Sequence[Event]) -> tuple[VerdictEvent, ...]:
    """What the last of `events` newly shows, to be recorded after it: each alarm once, by name.

    Costs nothing after most steps: the curves are looked at after an evaluation and every `LOOK_EVERY` steps.
    """
    last = events[-1]
    if not isinstance(last, EvalEvent | StepEvent):
        return ()
    if isinstance(last, StepEvent) and last.step != 1 and last.step % LOOK_EVERY != 0:
        return ()
    return _new(judge_events(events, last.step), events)


def last_signals(events: Sequence[Event], end: EndEvent) -> tuple[VerdictEvent, ...]:
    """What `events` newly show now that the run ends as `end` says, to be recorded before it."""
    return () if end.reason == "interrupted" else _new(judge_events([*events, end], end.step), events)


def _new(verdicts: Sequence[VerdictEvent], events: Sequence[Event]) -> tuple[VerdictEvent, ...]:
    known = {event.name for event in events if isinstance(event, VerdictEvent)}
    return tuple(verdict for verdict in verdicts if verdict.is_alarm and verdict.name not in known)


def judge_events(events: Sequence[Event], step: int | None = None) -> tuple[VerdictEvent, ...]:
    """What the curves in a run's events show: of its losses, or of its rewards where the objective has those.

    `step` is where it was seen, by default the last. While the run goes on, that nothing was validated so far says
    nothing, unless no row is held out.
    """
    if step is None:
        step = max((event.step for event in events if isinstance(event, StepEvent | EvalEvent)), default=0)
    curves = read_curves(events)
    rewards = judge_rewards(read_rewards(events), step, ended=curves.reason is not None)
    if rewards is not None:
        return (rewards,)
    blind = any(isinstance(event, StartEvent) and event.train_rows and not event.eval_rows for event in events)
    if curves.steps or curves.reason is not None or blind:
        return (judge_curves(curves, step),)
    diverged = _diverged(curves)
    return () if diverged is None else (_verdict(curves, step, diverged),)


def judge_curves(curves: Curves, step: int = 0) -> VerdictEvent:
    """The gravest sign in the curves, or a good verdict; `step` is where it was seen."""
    for sign in (_diverged, _unseen, _worsened, _overfitting, _memorized, _memorizing, _underfitting):
        found = sign(curves)
        if found is not None:
            return _verdict(curves, step, found)
    return VerdictEvent(
        step, "overfitting", "good", "No sign of overfitting in the loss curves.", "", _evidence(curves)
    )


_Sign = tuple[str, str, str, str, str]
"""Name, status, finding, mend, and the signal of the field's table that it matches."""


def _verdict(curves: Curves, step: int, sign: _Sign) -> VerdictEvent:
    name, status, finding, mend, signal = sign
    return VerdictEvent(step, name, status, finding, mend, _evidence(curves), signal)


def _unseen(curves: Curves) -> _Sign | None:
    if curves.steps:
        return None
    return (
        "no eval set",
        "warn",
        "No validation loss was measured while training, so overfitting cannot be seen.",
        "Hold out 10 to 20% of the rows (data.holdout: 0.1).",
        "no evaluation set",
    )


def _diverged(curves: Curves) -> _Sign | None:
    mend, signal = DIVERGED_MEND, DIVERGED_SIGNAL
    if not all(map(math.isfinite, (*curves.losses, *curves.validation))):
        return ("diverged", "bad", "Diverged: the loss is no finite number any more.", mend, signal)
    if len(curves.losses) < LEAST_STEPS:
        return None
    parts = np.array_split(np.asarray(curves.losses), min(PARTS, len(curves.losses)))
    means = np.array([part.mean() for part in parts])
    lowest, last = int(means.argmin()), float(means[-1])
    climb = last - means[lowest]
    # Batches differ: how far the mean of a part is from the curve, by how far a loss is from the one before it.
    error = float(np.median(np.abs(np.diff(curves.losses)))) / 0.6745 / math.sqrt(2 * len(parts[-1]))
    unsure = 2 * sure(len(curves.losses)) * error  # twice, because the lowest of many parts is low by chance, too
    gained = max(float(means[0] - means[lowest]), 0.0)
    if climb <= max(UNDONE * gained, CLIMB * abs(means[lowest]), NOISE, unsure):
        return None
    return ("diverged", "bad", f"Diverged: training loss climbed from {means[lowest]:.3f} to {last:.3f}.", mend, signal)


def _worsened(curves: Curves) -> _Sign | None:
    """The base did better than any later evaluation; before the end a run may still recover from its first steps."""
    if curves.reason is None or curves.first_loss is None:
        return None
    lowest = min(curves.validation)
    if lowest - curves.first_loss <= max(NOISE, UNTOUCHED * curves.first_loss):
        return None
    values = f"{curves.first_loss:.3f} before, {lowest:.3f} at its best"
    finding = f"Worse than before training: validation loss {values}."
    return ("diverged", "bad", finding, DIVERGED_MEND, DIVERGED_SIGNAL)


def _overfitting(curves: Curves) -> _Sign | None:
    validation, training = smooth(curves.validation), smooth(curves.training)
    best, count = int(np.argmin(validation)), len(curves.steps)
    lowest = float(validation[best])
    # Right at the end of a curve one bad evaluation is not yet a rise: two in a row are, or one far above.
    ended = best >= count - 2
    recent = float(validation[-1] if ended else min(validation[-2:]))
    far = 1 + (FAR - 1) * (ended + (count < LEAST_FOR_NOISE))
    unsure = sure(count)
    margin = max(far * RISE * lowest, min(far, FAR) * NOISE, unsure * noise(curves.validation))
    if recent - lowest <= margin or training[-1] - training[best] > max(NOISE, unsure * noise(curves.training)):
        return None
    signal = "training loss falls while validation loss rises"
    fell = training[-1] < training[best]
    where = f"after step {curves.steps[best]} while training loss {'fell' if fell else 'did not'}"
    if curves.kept_step == curves.steps[int(np.argmin(curves.validation))]:
        finding = f"Validation loss rose {where}; the weights of step {curves.kept_step} were kept."
        mend = "Nothing is lost; fewer epochs would save time, more data would help more."
        return ("overfitting", "warn", finding, mend, signal)
    mend = "Train for fewer epochs or with training.early_stopping, or add data."
    return ("overfitting", "bad", f"Overfitted: validation loss rose {where}.", mend, signal)


def _memorized(curves: Curves) -> _Sign | None:
    last_training, last = float(smooth(curves.training)[-1]), float(smooth(curves.validation)[-1])
    if not last_training < LEARNED_BY_HEART or last <= GENERALIZES:
        return None
    return (
        "memorized",
        "warn",
        "The training rows are learned by heart, the held-out rows are not.",
        "Add data, or regularize: a lower adapter.r, adapter.dropout: 0.05, fewer epochs.",
        "perfect accuracy on the training rows",
    )


def _memorizing(curves: Curves) -> _Sign | None:
    count = len(curves.steps)
    if count <= 2 or 0 < len(curves.losses) < LEAST_STEPS:
        return None
    half, fifth = count // 2, max(1, (count + 2) // 5)

    def mid_and_end(curve: Sequence[float]) -> tuple[float, float]:
        """The curve at its middle and at its end, each the mean of a fifth of it."""
        return float(np.mean(curve[half : half + fifth])), float(np.mean(curve[-fifth:]))

    (training, training_end), (validation, validation_end) = map(mid_and_end, (curves.training, curves.validation))
    kept_falling, still_better = training - training_end, validation - validation_end
    flat = still_better < max(NOISE, FLAT * validation_end)
    falling = kept_falling > max(NOISE, FALL * training)
    per_evaluation = max(1.0, len(curves.losses) / count)  # steps whose mean a training loss is
    # Two values of each of two curves are compared, so the noise of both counts twice.
    unsure = math.sqrt(2 / fifth) * math.hypot(
        sure(count) * noise(curves.validation),
        sure(len(curves.losses)) * noise(curves.losses) / math.sqrt(per_evaluation),
    )
    if count < LEAST_FOR_NOISE:
        unsure = max(unsure, FAR * NOISE, FAR * RISE * validation_end)
    surely = kept_falling - still_better > unsure
    # Curves that lie on each other are one curve: the rows held out are learned as well as those trained on.
    apart = validation_end - training_end > NOISE
    if not (flat and falling and surely and apart):
        return None
    return (
        "memorization",
        "warn",
        f"Memorization is starting: since step {curves.steps[half]} only the training loss falls.",
        "Stop earlier (training.early_stopping), or add data.",
        "validation loss flat while training loss falls",
    )


def _underfitting(curves: Curves) -> _Sign | None:
    if curves.reason is None:  # still training: what it will have learned in the end is not known
        return None
    if curves.first_loss is None and len(curves.validation) == 1:
        return None  # one value has not moved
    validation = smooth(curves.validation)
    first = curves.first_loss if curves.first_loss is not None else float(validation[0])
    lowest = float(validation.min())
    if first > LEARNED_BY_HEART and first - lowest < max(NOISE, UNTOUCHED * first) and not _learned(curves):
        return (
            "underfitting",
            "warn",
            f"Underfitted: the loss hardly moved (validation {first:.3f} before, {lowest:.3f} at its best).",
            "Raise training.learning_rate, train for more epochs, or raise adapter.r.",
            "training and validation loss both stay high",
        )
    count = len(validation)
    quarter = max(1, count // 4)
    before, last = float(validation[max(0, count - 1 - quarter)]), float(validation[-1])
    doubtful = count < LEAST_FOR_NOISE
    needed = max(
        (DOUBTFUL if doubtful else 1) * max(NOISE, UNFINISHED * before), sure(count) * noise(curves.validation)
    )
    if curves.reason == "finished" and count >= LEAST_EVALUATIONS and before - last > needed:
        return (
            "underfitting",
            "warn",
            f"Training ended while validation loss still fell (by {1 - last / before:.0%} over its last quarter).",
            "Train for more epochs, or raise training.learning_rate.",
            "training and validation loss both still falling",
        )
    return None


def _learned(curves: Curves) -> bool:
    """Whether the training loss fell: from its first tenth, where most of a fall may be, to its second half."""
    if len(curves.losses) < LEAST_STEPS:
        return curves.training[0] - curves.training[-1] >= max(NOISE, UNTOUCHED * curves.training[0])
    early, late = max(3, len(curves.losses) // 10), len(curves.losses) // 2
    began, ended = float(np.mean(curves.losses[:early])), float(np.mean(curves.losses[late:]))
    return began - ended >= max(NOISE, UNTOUCHED * began, 2 * noise(curves.losses) / math.sqrt(early))


def _evidence(curves: Curves) -> str:
    told = "no loss was logged"
    if curves.losses:
        tenth = max(1, len(curves.losses) // 10)  # a step's own loss may be that of an epoch's last few rows
        began, ended = float(np.mean(curves.losses[:tenth])), float(np.mean(curves.losses[-tenth:]))
        told = f"training loss {began:.3f}, then {ended:.3f}"
    if not curves.steps:
        return told
    best, last = int(np.argmin(curves.validation)), len(curves.steps) - 1
    lowest = f"validation loss {curves.validation[best]:.3f} at step {curves.steps[best]}"
    if best == last:
        return f"{lowest}, its lowest; {told}"
    return f"{lowest}, {curves.validation[last]:.3f} at step {curves.steps[last]}; {told}"
