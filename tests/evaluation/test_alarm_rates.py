"""How often the curves of healthy runs raise an alarm, and how often those of sick ones do, over seeded noise.

The noise is that of real logs: 5 to 30% of a step's loss (batches differ), 0.4 to 2% of a validation loss (the same
rows every time, other weights). Few evaluations and many looks are what a careless rule trips over.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import count, product

import pytest
from planted_runs import Shape, fall, losses, turn

from tunesmith.training.events import Event, VerdictEvent
from tunesmith.training.signals import judge_events, live_signals

NOISES = {"smooth": (0.05, 0.004), "noisy": (0.15, 0.01), "very noisy": (0.3, 0.02)}

HEALTHY: list[tuple[Shape, Shape]] = [
    (fall(1.8, 0.7), fall(1.8, 0.78)),
    (fall(2.2, 0.9, 4), fall(2.2, 0.95, 4)),
    (fall(1.3, 1.0, 10), fall(1.35, 1.08, 10)),
    (fall(2.0, 0.6, 9), fall(2.0, 0.8, 9)),
    (lambda t: 0.5 + 1.7 * (1 + 30 * t) ** -0.6, lambda t: 0.55 + 1.65 * (1 + 30 * t) ** -0.6),
]


def runs(
    shapes: list[tuple[Shape, Shape]], noise: str, evaluations: int, steps: int, times: int
) -> Iterator[list[Event]]:
    step_noise, jitter = NOISES[noise]
    seeds = count(1000 * evaluations + steps)
    for _, (training, validation) in product(range(times), shapes):
        yield losses(
            training,
            validation,
            steps=steps,
            evaluations=evaluations,
            noise=step_noise,
            jitter=jitter,
            seed=next(seeds),
        )


def alarms(events: list[Event]) -> set[str]:
    return {verdict.name for verdict in judge_events(events) if verdict.status != "good"}


def live_alarms(events: list[Event]) -> set[str]:
    log: list[Event] = []
    for event in events:
        log.append(event)
        log += live_signals(log)
    return {event.name for event in log if isinstance(event, VerdictEvent)}


@pytest.mark.parametrize("noise", NOISES)
def test_healthy_curves_raise_an_alarm_in_at_most_one_run_of_a_hundred(noise: str) -> None:
    raised: Counter[str] = Counter()
    looked = 0
    for evaluations, steps in product((3, 4, 5, 8, 12, 24), (24, 60, 200)):
        for events in runs(HEALTHY, noise, min(evaluations, steps // 2), steps, 4):
            looked += 1
            raised.update(alarms(events))
    assert raised.total() <= looked / 100, raised


@pytest.mark.parametrize("noise", NOISES)
def test_looking_at_every_step_of_healthy_runs_raises_an_alarm_in_at_most_one_of_fifty(noise: str) -> None:
    found = [
        live_alarms(events)
        for evaluations, steps in product((4, 5, 8, 12), (20, 60))
        for events in runs(HEALTHY, noise, evaluations, steps, 4)
    ]
    assert sum(map(bool, found)) <= len(found) / 50, found


@pytest.mark.parametrize(
    ("rise", "noise", "evaluations", "least"),
    [
        (0.4, "smooth", 4, 0.95),
        (0.4, "very noisy", 12, 0.95),
        (0.2, "smooth", 8, 0.9),
        (0.2, "noisy", 12, 0.9),
        (0.1, "smooth", 12, 0.9),
        (0.1, "noisy", 24, 0.8),
        (0.05, "smooth", 24, 0.8),
    ],
)
def test_planted_overfitting_is_found_by_how_strong_it_is(
    rise: float, noise: str, evaluations: int, least: float
) -> None:
    """`rise` is that of the validation loss over its lowest, from a third, the middle or two thirds of the run on."""
    shapes = [(fall(2.2, 0.1), turn(2.2, 0.9, 0.9 * (1 + rise), at)) for at in (0.3, 0.5, 0.65)]
    found = ["overfitting" in alarms(events) for events in runs(shapes, noise, evaluations, 120, 10)]
    assert sum(found) >= least * len(found)


@pytest.mark.parametrize(("noise", "least"), [("smooth", 0.95), ("noisy", 0.8)])
def test_planted_memorization_is_found(noise: str, least: float) -> None:
    shapes = [
        (fall(2.2, 0.2, 2.5), fall(2.2, 0.9, 14)),
        (fall(2.0, 0.3, 2.0), fall(2.0, 0.95, 16)),
        (fall(1.5, 0.4, 1.5), fall(1.5, 1.1, 20)),
    ]
    found = [
        "memorization" in alarms(events)
        for evaluations in (5, 8, 24)
        for events in runs(shapes, noise, evaluations, 120, 6)
    ]
    assert sum(found) >= least * len(found)


@pytest.mark.parametrize("noise", NOISES)
def test_planted_divergence_is_found(noise: str) -> None:
    shapes = [(turn(2.2, 0.9, end, at), turn(2.2, 1.0, end, at)) for end, at in ((3.0, 0.5), (2.2, 0.6), (6.0, 0.8))]
    found = ["diverged" in alarms(events) for events in runs(shapes, noise, 8, 120, 6)]
    assert sum(found) >= 0.9 * len(found)
