"""A run's loss curves, read off its events by step, and what of their movement is noise.

Logs differ: some evaluate before the first step, some log losses rarely or write all steps before all evaluations. So
events are put together by their step, not by their place. Noise is measured on the curve itself, by how far each value
is from its neighbours; without that, a threshold is too strict for a noisy run or too lax for a smooth one.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.training.events import EndEvent, EvalEvent, Event, StartEvent, StepEvent

LEAST_FOR_NOISE = 8
"""Values from which on noise is told from trend; fewer are taken as they are."""

SURE = 3.0
"""Standard deviations of a curve's noise by which a change must exceed what noise would make."""

_MEDIAN_TO_DEVIATION = 1 / 0.6745
"""The standard deviation of a normal variable is its median absolute value divided by 0.6745."""

_MEDIAN_EFFICIENCY = 0.37
"""A deviation read off a median is as sure as a standard deviation of this share of the values (Huber 1981)."""


@dataclass(frozen=True)
class Curves:
    """Validation losses by step, and the mean training loss of the steps since the evaluation before; same length.

    A training loss is NaN where none was logged by then. `first_loss` is the validation loss before the first step,
    the base model's; `losses` are those of the steps; `reason` is why training ended, None while it goes on.
    """

    steps: tuple[int, ...]
    training: tuple[float, ...]
    validation: tuple[float, ...]
    kept_step: int | None = None
    first_loss: float | None = None
    reason: str | None = None
    losses: tuple[float, ...] = ()


def read_curves(events: Iterable[Event]) -> Curves:
    """The loss curves in a run's events; empty when nothing was logged."""
    losses: dict[int, float] = {}
    evaluated: dict[int, float] = {}
    start: StartEvent | None = None
    end: EndEvent | None = None
    for event in events:
        match event:
            case StartEvent():
                start, end = event, None
            case StepEvent():
                losses[event.step] = event.loss
            case EvalEvent():
                evaluated[event.step] = event.loss
            case EndEvent():
                end = event
            case _:
                pass
    began = min(losses, default=1)
    steps = sorted(step for step in evaluated if step >= began and step > 0)
    return Curves(
        steps=tuple(steps),
        training=tuple(_between(losses, steps)),
        validation=tuple(evaluated[step] for step in steps),
        kept_step=None if end is None else end.best_step,
        first_loss=next((loss for step, loss in sorted(evaluated.items()) if step < began), None),
        reason=end.reason if end is not None else None if _goes_on(start, max(losses, default=0)) else "finished",
        losses=tuple(loss for _, loss in sorted(losses.items())),
    )


def smooth(values: Sequence[float]) -> NDArray[np.float64]:
    """Each value's mean with its neighbours, or the value itself where there are too few to be noisy."""
    found = np.asarray(values, np.float64)
    if len(found) < LEAST_FOR_NOISE:
        return found
    padded = np.concatenate([found[:1], found, found[-1:]])
    means: NDArray[np.float64] = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    means[0], means[-1] = found[:2].mean(), found[-2:].mean()
    return means


def noise(values: Sequence[float]) -> float:
    """The standard deviation of a value around the curve, from the third differences; 0 where there are too few.

    The third, because a curve that bends evenly has none; the median of them, because it jumps only in few places.
    """
    if len(values) < LEAST_FOR_NOISE:
        return 0.0
    jumps = np.abs(np.diff(np.asarray(values, np.float64), 3))
    return float(np.median(jumps)) * _MEDIAN_TO_DEVIATION / math.sqrt(20)  # 1 + 9 + 9 + 1: the variance of a jump


def sure(count: int) -> float:
    """The standard deviations to ask for where the deviation itself was read off `count` values: `SURE` of very many.

    The quantile of Student's t by its first correction to the normal one (Abramowitz and Stegun 1964, 26.7.5).
    """
    return SURE + (SURE**3 + SURE) / (4 * _MEDIAN_EFFICIENCY * max(count, 1))


def _between(losses: dict[int, float], steps: Sequence[int]) -> list[float]:
    """The mean loss of the steps up to each of `steps` and past the one before; the last known where there are none."""
    means: list[float] = []
    before = -1
    for step in steps:
        since = [loss for at, loss in losses.items() if before < at <= step]
        means.append(float(np.mean(since)) if since else means[-1] if means else math.nan)
        before = step
    return means


def _goes_on(start: StartEvent | None, last: int) -> bool:
    """Whether the run is still under way, as far as the log says how long it will be."""
    return start is not None and not 0 < start.total_steps <= last
