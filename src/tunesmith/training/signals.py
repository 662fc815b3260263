"""Signs of trouble in a run's curves: one reading of them, live while it trains and again in the report.

Pure functions of the events so far. The signs are the field's usual ones (validation loss rises while training loss
falls, and so on); the thresholds that turn a sign into a verdict are named here. They are set wide enough that the
noise of a few dozen rows raises no alarm, at the price of noticing late.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.training.events import EndEvent, EvalEvent, Event, StartEvent, StepEvent, VerdictEvent
from tunesmith.training.reward_signals import judge_rewards, read_rewards

RISE = 0.02
"""Validation loss this far above its minimum, as a share of it, has risen: the classic overfitting curve."""

FLAT = 0.01
"""Validation loss that falls by less than this share over half of the run has stopped falling."""

FALL = 0.10
"""Training loss that falls by this share over the same half is still falling: memorization starts."""

LEARNED_BY_HEART = 0.05
"""Nats per token; a training loss below it gives every token 95% on average (exp(-0.05))."""

NOISE = 0.02
"""Nats per token; no change of a loss smaller than this is a sign of anything."""

UNTOUCHED = 0.03
"""Validation loss that ends less than this share below the base's, with the training loss as flat, learned nothing."""

UNFINISHED = 0.10
"""Validation loss that fell by this share over the last quarter of a run that ended by plan was still on its way."""

LOOK_EVERY = 10
"""Steps between looks at curves that need no evaluation."""

LEAST_EVALUATIONS = 4
"""Fewer evaluations have no last quarter."""


@dataclass(frozen=True)
class Curves:
    """Validation losses by step, and the mean training loss of the steps since the evaluation before; same length.

    `first_loss` is the validation loss before the first step, the base model's; `reason` is why training ended.
    """

    steps: tuple[int, ...]
    training: tuple[float, ...]
    validation: tuple[float, ...]
    kept_step: int | None = None
    first_loss: float | None = None
    reason: str | None = None


def read_curves(events: Iterable[Event]) -> Curves:
    """The loss curves in a run's events; empty when nothing was evaluated."""
    steps: list[int] = []
    training: list[float] = []
    validation: list[float] = []
    since: list[float] = []
    kept_step = first_loss = reason = None
    for event in events:
        match event:
            case StepEvent():
                since.append(event.loss)
            case EvalEvent() if since:
                steps.append(event.step)
                training.append(float(np.mean(since)))
                validation.append(event.loss)
                since = []
            case EvalEvent():
                first_loss = event.loss
            case EndEvent():
                kept_step, reason = event.best_step, event.reason
            case _:
                pass
    return Curves(tuple(steps), tuple(training), tuple(validation), kept_step, first_loss, reason)


def live_signals(events: Sequence[Event]) -> tuple[VerdictEvent, ...]:
    """What the last of `events` newly shows, to be recorded after it: each alarm once, by name.

    Costs nothing after most steps: the curves are looked at after an evaluation and every `LOOK_EVERY` steps.
    """
    last = events[-1]
    if not isinstance(last, EvalEvent | StepEvent):
        return ()
    if isinstance(last, StepEvent) and last.step != 1 and last.step % LOOK_EVERY != 0:
        return ()
    known = {event.name for event in events if isinstance(event, VerdictEvent)}
    return tuple(
        verdict
        for verdict in judge_events(events, last.step, finished=False)
        if verdict.status != "good" and verdict.name not in known
    )


def judge_events(events: Sequence[Event], step: int = 0, *, finished: bool = True) -> tuple[VerdictEvent, ...]:
    """What the curves in a run's events show: of its losses, or of its rewards where the objective has those.

    While the run is not `finished` yet, that nothing was validated so far says nothing, unless no row is held out.
    """
    rewards = judge_rewards(read_rewards(events), step)
    if rewards is not None:
        return (rewards,)
    curves = read_curves(events)
    blind = any(isinstance(event, StartEvent) and event.eval_rows == 0 for event in events)
    return (judge_curves(curves, step),) if finished or blind or curves.steps else ()


def judge_curves(curves: Curves, step: int = 0) -> VerdictEvent:
    """The gravest sign in the curves, or a good verdict; `step` is where it was seen."""
    if not curves.steps:
        return VerdictEvent(
            step,
            "no eval set",
            "warn",
            "No validation loss was measured while training, so overfitting cannot be seen.",
            "Hold out 10 to 20% of the rows (data.holdout: 0.1).",
            "no evaluation in events.jsonl",
            "no evaluation set",
        )
    for sign in (_overfitting, _memorized, _memorizing, _underfitting):
        found = sign(curves)
        if found is not None:
            name, status, finding, mend, signal = found
            return VerdictEvent(step, name, status, finding, mend, _evidence(curves), signal)
    return VerdictEvent(
        step, "overfitting", "good", "No sign of overfitting in the loss curves.", "", _evidence(curves)
    )


_Sign = tuple[str, str, str, str, str]
"""Name, status, finding, mend, and the signal of the field's table that it matches."""


def _overfitting(curves: Curves) -> _Sign | None:
    best = int(np.argmin(curves.validation))
    lowest, last = curves.validation[best], curves.validation[-1]
    # Right at the end of a curve one bad evaluation is not yet a rise: two in a row are, or one far above.
    recent = min(curves.validation[-2:]) if best < len(curves.steps) - 2 else last
    margin = max(NOISE, RISE * lowest) * (1 if best < len(curves.steps) - 2 else 3)
    if recent - lowest <= margin or curves.training[-1] >= curves.training[best]:
        return None
    signal = "training loss falls while validation loss rises"
    where = f"after step {curves.steps[best]} while training loss fell"
    if curves.kept_step == curves.steps[best]:
        finding = f"Validation loss rose {where}; the weights of that step were kept."
        mend = "Nothing is lost; fewer epochs would save time, more data would help more."
        return ("overfitting", "warn", finding, mend, signal)
    mend = "Train for fewer epochs or with training.early_stopping, or add data."
    return ("overfitting", "bad", f"Overfitted: validation loss rose {where}.", mend, signal)


def _memorized(curves: Curves) -> _Sign | None:
    last_training, last = curves.training[-1], curves.validation[-1]
    if last_training >= LEARNED_BY_HEART or last - last_training <= max(3 * NOISE, last_training):
        return None
    return (
        "memorized",
        "warn",
        "The training rows are learned by heart, the held-out rows are not.",
        "Add data, or regularize: a lower adapter.r, adapter.dropout: 0.05, fewer epochs.",
        "perfect accuracy on the training rows",
    )


def _memorizing(curves: Curves) -> _Sign | None:
    half = len(curves.steps) // 2
    last_training, last = curves.training[-1], curves.validation[-1]
    flat = curves.validation[half] - last < max(NOISE, FLAT * last)
    falling = curves.training[half] - last_training > max(NOISE, FALL * curves.training[half])
    # Curves that lie on each other are one curve: the rows held out are learned as well as those trained on.
    apart = last - last_training > NOISE
    if len(curves.steps) <= 2 or not (flat and falling and apart):
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
    first = curves.first_loss if curves.first_loss is not None else curves.validation[0]
    lowest = min(curves.validation)
    still = curves.training[0] - curves.training[-1] < max(NOISE, UNTOUCHED * curves.training[0])
    if first > LEARNED_BY_HEART and still and first - lowest < max(NOISE, UNTOUCHED * first):
        return (
            "underfitting",
            "warn",
            f"Underfitted: the loss hardly moved (validation {first:.3f} before, {lowest:.3f} at its best).",
            "Raise training.learning_rate, train for more epochs, or raise adapter.r.",
            "training and validation loss both stay high",
        )
    count = len(curves.validation)
    quarter = max(1, count // 4)
    before, last = curves.validation[max(0, count - 1 - quarter)], curves.validation[-1]
    if curves.reason == "finished" and count >= LEAST_EVALUATIONS and before - last > max(NOISE, UNFINISHED * before):
        return (
            "underfitting",
            "warn",
            f"Training ended while validation loss still fell (by {1 - last / before:.0%} over its last quarter).",
            "Train for more epochs, or raise training.learning_rate.",
            "training and validation loss both still falling",
        )
    return None


def _evidence(curves: Curves) -> str:
    best = int(np.argmin(curves.validation))
    return (
        f"validation loss {curves.validation[best]:.3f} at step {curves.steps[best]}, {curves.validation[-1]:.3f} at "
        f"step {curves.steps[-1]}; training loss {curves.training[0]:.3f}, then {curves.training[-1]:.3f}"
    )
