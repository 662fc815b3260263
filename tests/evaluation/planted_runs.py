"""Runs planted to overfit, memorize, forget, leak and so on, and healthy ones; each with the alarms it must raise.

Curves are shapes with seeded noise of the size that 50 held-out rows give. Data cases are real rows that go through
the real checks.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from tunesmith.dataset.conversation import Conversation, Message, Source
from tunesmith.evaluation.evidence import AdapterState, Evidence, Leak, Memory
from tunesmith.evaluation.result import Estimate, MetricComparison
from tunesmith.quality.checklist import check
from tunesmith.quality.leakage import leaked_rows
from tunesmith.quality.report import CheckReport
from tunesmith.quality.rows import RowWriter
from tunesmith.training.events import EndEvent, EvalEvent, Event, StartEvent, StepEvent

Shape = Callable[[float], float]
"""A loss as a function of the share of the run that is over, 0 to 1."""


@dataclass(frozen=True)
class Case:
    """A planted run: its evidence, and the names of exactly the alarms it must raise (none: it is healthy)."""

    name: str
    evidence: Evidence
    alarms: frozenset[str] = frozenset()


def fall(start: float, end: float, rate: float = 5.0) -> Shape:
    """Exponentially from `start` towards `end`."""
    return lambda t: end + (start - end) * math.exp(-rate * t)


def turn(start: float, lowest: float, end: float, at: float) -> Shape:
    """Down to `lowest` at share `at`, then up to `end`: the classic overfitting curve."""

    def loss(t: float) -> float:
        if t < at:
            return lowest + (start - lowest) * (1 - t / at) ** 2
        return lowest + (end - lowest) * ((t - at) / (1 - at)) ** 1.5

    return loss


def losses(
    training: Shape,
    validation: Shape,
    *,
    steps: int = 120,
    evaluations: int = 12,
    noise: float = 0.06,
    jitter: float = 0.004,
    reason: str = "finished",
    seed: int = 0,
) -> list[Event]:
    """A run's events; `noise` is of a step's loss, `jitter` of a validation loss (the same rows every time)."""
    draw = random.Random(seed)
    events: list[Event] = [start(50), EvalEvent(0, validation(0), 500, 0.1, False)]
    best: tuple[float, int | None] = (math.inf, None)
    for step in range(1, steps + 1):
        share = step / steps
        value = max(1e-4, training(share) * (1 + draw.gauss(0, noise)))
        events.append(StepEvent(step, value, 1e-4, 1.0, 100, 10, 0.1, share * 3))
        if step % max(1, steps // evaluations) == 0:
            value = max(1e-4, validation(share) * (1 + draw.gauss(0, jitter)))
            best = min(best, (value, step))
            events.append(EvalEvent(step, value, 500, 0.1, best[1] == step))
    return [*events, EndEvent(steps, reason, best[1], 10.0)]


def rewards(
    reward: Shape,
    kl: Shape,
    length: Shape,
    held_out: Shape | None = None,
    *,
    answer_loss: Shape = lambda t: 2.0,
    steps: int = 60,
    seed: int = 0,
) -> list[Event]:
    """The events of a run with an online objective."""
    draw = random.Random(seed)
    events: list[Event] = [start(0 if held_out is None else 50)]
    if held_out is not None:
        value = held_out(0.0)
        events.append(EvalEvent(0, -value, 500, 0.1, False, {"reward": value, "answer_loss": answer_loss(0.0)}))
    for step in range(1, steps + 1):
        share = step / steps
        measures = {
            "reward": reward(share) + draw.gauss(0, 0.05),
            "kl": max(0.0, kl(share) * (1 + draw.gauss(0, 0.1))),
            "completions/mean_length": length(share) * (1 + draw.gauss(0, 0.05)),
        }
        events.append(StepEvent(step, 0.0, 1e-5, 1.0, 100, 10, 0.1, share, measures))
        if held_out is not None and step % (steps // 6) == 0:
            value = held_out(share) + draw.gauss(0, 0.02)
            quality = answer_loss(share) + draw.gauss(0, 0.02)
            events.append(EvalEvent(step, -value, 500, 0.1, False, {"reward": value, "answer_loss": quality}))
    return [*events, EndEvent(steps, "finished", None, 10.0)]


def start(eval_rows: int) -> StartEvent:
    return StartEvent(0, 120, 450, eval_rows, 1000, 100_000, 0, 0.0, "embedded", "fp32", 0.0)


def blind(steps: int = 60) -> list[Event]:
    """A run without any evaluation."""
    found = [event for event in losses(fall(2, 0.4), fall(2, 0.5), steps=steps) if not isinstance(event, EvalEvent)]
    return [start(0), *found[1:]]


def metric(
    name: str,
    base: float,
    tuned: float,
    half: float,
    *,
    better: str = "higher",
    rows: int = 80,
    top: float | None = 1.0,
) -> MetricComparison:
    difference = Estimate(tuned - base, tuned - base - half, tuned - base + half)
    return MetricComparison(
        name=name,
        better=better,  # type: ignore[arg-type]
        base=Estimate(base, base - half, base + half),
        tuned=Estimate(tuned, tuned - half, tuned + half),
        difference=difference,
        significant=difference.low > 0 or difference.high < 0,
        rows=rows,
        method="planted",
        top=top if better == "higher" else None,
        detectable=1.43 * half,
    )


def accuracy(base: float, tuned: float, half: float = 0.1, rows: int = 80) -> MetricComparison:
    return metric("accuracy", base, tuned, half, rows=rows)


def loss(base: float, tuned: float, half: float = 0.1) -> MetricComparison:
    return metric("loss", base, tuned, half, better="lower")


def prompted(headline: MetricComparison, value: float, half: float = 0.1) -> MetricComparison:
    """`headline` with a prompted base beside it."""
    over = headline.tuned.value - value
    return msgspec.structs.replace(
        headline,
        prompted=Estimate(value, value - half, value + half),
        over_prompted=Estimate(over, over - half, over + half),
    )


HEALTHY_EVENTS = losses(fall(2.2, 0.45), fall(2.2, 0.5))
HEALTHY = Evidence(
    headline=accuracy(0.3, 0.9),
    loss=loss(2.2, 0.5),
    events=HEALTHY_EVENTS,
    retention=metric("general loss", 2.9, 2.95, 0.06, better="lower"),
    drift=metric("drift", 1.8, 1.95, 0.05, better="lower"),
    memory=Memory(48, 6.0, 0.55, 0.0, 0.5, 0.4, 0.5),
    leak=Leak(0, 50),
    adapter=AdapterState(merged=True, overhead=0.1),
)


def _but(name: str, alarms: str | Sequence[str], **changed: object) -> Case:
    """The healthy run with something changed."""
    names = frozenset([alarms] if isinstance(alarms, str) and alarms else alarms)
    return Case(name, replace(HEALTHY, **changed), names)  # type: ignore[arg-type]


THINGS = ("kettle", "lamp", "kite", "chair", "phone", "radio", "tent", "scarf", "mirror", "drum", "ladder", "globe")
PLACES = ("Oslo", "Rome", "Basel", "Lyon", "Quito", "Perth", "Cairo", "Tokyo", "Lima", "Turin", "Essen", "Delft")
VERBS = ("broke", "vanished", "arrived", "changed", "doubled", "stopped", "started", "faded", "bent", "froze", "melted")


def tickets(count: int, seed: int = 0) -> list[Conversation]:
    """Clean classification rows, all different."""
    draw = random.Random(seed)
    kinds = {"billing": "invoice", "shipping": "parcel", "account": "password", "technical": "screen"}
    rows = []
    for number in range(count):
        label, noun = list(kinds.items())[number % 4]
        thing, other = draw.choice(THINGS), draw.choice(THINGS)
        verb, verb_after, place = draw.choice(VERBS), draw.choice(VERBS), draw.choice(PLACES)
        text = f"The {noun} for my {thing} {verb} in {place} after the {other} {verb_after}, case {number * 37}."
        rows.append(ticket(text, label, number))
    return rows


def ticket(text: str, label: str, line: int) -> Conversation:
    return Conversation((Message("user", text), Message("assistant", label)), source=Source("t.jsonl", line, "openai"))


def checked(rows: Sequence[Conversation], folder: Path) -> CheckReport:
    """What the checklist finds in `rows`."""
    from tunesmith.dataset.write import write

    path = folder / f"rows-{len(list(folder.iterdir()))}.jsonl"
    write(path, rows, format="openai")
    return check([path])


def leak(training: Sequence[Conversation], evaluated: Sequence[Conversation]) -> Leak:
    """What leaks from `training` into `evaluated`."""
    left, right = RowWriter(), RowWriter()
    left.extend(training)
    right.extend(evaluated)
    return Leak(len(leaked_rows(left.rows(), right.rows())), len(evaluated))


def curve_cases() -> list[Case]:
    return [
        *(
            _but(
                f"overfits, turning at {at:.0%} ({seed})",
                "overfitting",
                events=losses(fall(2.2, 0.05), shape, seed=seed),
            )
            for seed, (at, shape) in enumerate(
                [
                    (0.3, turn(2.2, 0.9, 1.6, 0.3)),
                    (0.5, turn(2.2, 0.8, 1.0, 0.5)),
                    (0.7, turn(2.2, 0.7, 0.85, 0.7)),
                    (0.4, turn(3.0, 1.5, 1.8, 0.4)),
                    (0.2, turn(1.0, 0.6, 1.4, 0.2)),
                ]
            )
        ),
        _but(
            "overfits and is stopped early",
            "overfitting",
            events=losses(fall(2, 0.2), turn(2, 0.8, 1.0, 0.6), reason="early_stopping", evaluations=8, steps=80),
        ),
        _but(
            "starts to memorize: validation flat from a third on",
            "memorization",
            events=losses(fall(2.2, 0.2, 2.5), fall(2.2, 0.9, 14)),
        ),
        _but(
            "starts to memorize on a hard task",
            "memorization",
            events=losses(fall(3.0, 0.9, 2.0), fall(3.0, 2.1, 15), seed=1),
        ),
        _but(
            "starts to memorize slowly",
            "memorization",
            events=losses(fall(1.5, 0.4, 1.5), fall(1.5, 1.1, 20), seed=2, evaluations=6),
        ),
        _but(
            "starts to memorize, many evaluations",
            "memorization",
            events=losses(fall(2.0, 0.3, 2.0), fall(2.0, 0.95, 16), seed=3, evaluations=30),
        ),
        _but(
            "learned by heart: training loss nothing, validation high",
            "memorized",
            events=losses(fall(2.2, 0.005, 8), fall(2.2, 1.2, 9)),
        ),
        _but(
            "learned by heart on short labels",
            "memorized",
            events=losses(fall(1.2, 0.01, 9), fall(1.2, 0.5, 9), seed=4),
        ),
        _but(
            "hardly learned: the learning rate is too low",
            "underfitting",
            events=losses(fall(2.2, 2.19), fall(2.2, 2.195)),
            headline=accuracy(0.3, 0.9),
        ),
        _but(
            "hardly learned, noisy", "underfitting", events=losses(fall(2.5, 2.48), fall(2.5, 2.49), seed=5, noise=0.02)
        ),
        _but(
            "stopped long before it was done",
            "underfitting",
            events=losses(lambda t: 3 - 1.8 * t, lambda t: 3 - 1.7 * t, seed=6),
        ),
        _but(
            "stopped before it was done, few evaluations",
            "underfitting",
            events=losses(lambda t: 2.5 - 1.5 * t, lambda t: 2.5 - 1.4 * t, seed=7, evaluations=4),
        ),
        _but(
            "overfits while the training loss lies at its floor",
            "overfitting",
            events=losses(fall(2.2, 0.3, 12), turn(2.2, 1.0, 1.6, 0.3), seed=8),
        ),
        _but(
            "overfits under noise",
            "overfitting",
            events=losses(fall(2.2, 0.2, 4), turn(2.2, 1.0, 1.4, 0.4), noise=0.3, jitter=0.03, evaluations=20, seed=9),
        ),
        _but("diverges", "diverged", events=losses(turn(2.2, 0.9, 6, 0.5), turn(2.2, 1.0, 6, 0.5))),
        _but(
            "diverges back to where it was, noisily",
            "diverged",
            events=losses(turn(2.2, 0.9, 2.1, 0.6), turn(2.2, 1.0, 2.2, 0.6), noise=0.15, jitter=0.02, seed=1),
        ),
        _but(
            "diverges to no number",
            "diverged",
            events=[*losses(fall(2.2, 0.8), fall(2.2, 0.9), steps=60), StepEvent(61, math.nan)],
        ),
        _but("no eval set", "no eval set", events=blind()),
        _but("no eval set, a short run", "no eval set", events=blind(8)),
        _but("no events at all", "no eval set", events=[]),
    ]


def model_cases() -> list[Case]:
    recited = Memory(48, 14.0, 0.98, 0.0, 0.1, 0.02, 1.3)
    return [
        _but("recites its training rows", "memorized", memory=recited),
        _but("recites labels, not others", "memorized", memory=Memory(48, 1.0, 1.0, 0.2, 0.55, 0.01, 0.9)),
        _but("recites half as well on others", "memorized", memory=Memory(40, 30.0, 0.95, 0.0, 0.5, 0.03, 0.8)),
        _but(
            "recites, and the curves show it too",
            "memorized",
            memory=recited,
            events=losses(fall(2.2, 0.005, 8), fall(2.2, 1.2, 9)),
        ),
        _but("forgot a little", "forgetting", retention=metric("general loss", 2.9, 3.3, 0.1, better="lower")),
        _but("forgot much", "forgetting", retention=metric("general loss", 2.9, 5.0, 0.2, better="lower")),
        _but("forgot, small model", "forgetting", retention=metric("general loss", 0.5, 0.9, 0.05, better="lower")),
        _but(
            "drifted far and forgot",
            ["forgetting", "drift"],
            retention=metric("general loss", 2.9, 4.0, 0.2, better="lower"),
            drift=metric("drift", 1.8, 3.4, 0.2, better="lower"),
        ),
        _but(
            "drifted far, no retention suite",
            "drift",
            retention=None,
            drift=metric("drift", 1.8, 2.9, 0.2, better="lower"),
        ),
        _but("drifted, no suite", "drift", retention=None, drift=metric("drift", 1.2, 1.9, 0.1, better="lower")),
        _but("base already good", "base already good enough", headline=accuracy(0.97, 0.99, 0.03)),
        _but("base perfect", "base already good enough", headline=accuracy(1.0, 1.0, 0.02)),
        _but("base good, tuned a bit better", "base already good enough", headline=accuracy(0.96, 0.99, 0.02)),
        _but("a prompt does as well", "a prompt would do", headline=prompted(accuracy(0.3, 0.9), 0.88)),
        _but("a prompt does better", "a prompt would do", headline=prompted(accuracy(0.3, 0.7), 0.9)),
        _but("a prompt does nearly as well", "a prompt would do", headline=prompted(accuracy(0.2, 0.85), 0.8)),
        _but("it hurt", "did it help", headline=accuracy(0.8, 0.5)),
        _but("it hurt, by loss", "did it help", headline=loss(1.0, 1.4), loss=loss(1.0, 1.4)),
        _but("no difference", "did it help", headline=accuracy(0.5, 0.53), loss=loss(1.0, 0.99)),
        _but("lower loss, same answers", "did it help", headline=accuracy(0.5, 0.53)),
        _but("too few rows to say", "did it help", headline=accuracy(0.3, 0.9, 0.3, rows=6)),
        _but("reward hacked: far from the reference and long", "reward hacking", events=rewards(
            fall(0, 2), lambda t: 1.2 * t, lambda t: 40 + 90 * t
        )),
        _but("reward hacked: held-out reward falls", "reward hacking", events=rewards(
            fall(0, 2), lambda t: 0.2 * t, lambda t: 40, turn(0, 0.8, 0.1, 0.4)
        )),
        _but("reward hacked: replies collapse", "reward hacking", events=rewards(
            fall(0, 1, 3), lambda t: 0.1 * t, lambda t: 60 - 50 * t, seed=1
        )),
        _but("reward hacked: runs away from the reference", "reward hacking", events=rewards(
            lambda t: 2 * t, lambda t: 3 * t * t, lambda t: 50, seed=2
        )),
        _but("reward hacked: held-out quality falls", "reward hacking", events=rewards(
            fall(0, 2), lambda t: 0.2 * t, lambda t: 40, fall(0, 0.8), answer_loss=lambda t: 2 + 3 * t, seed=3
        )),
        _but("the reward never rose", "underfitting", events=rewards(
            lambda t: 0.3, lambda t: 0.1 * t, lambda t: 40, lambda t: 0.5 - 0.1 * t, seed=4
        )),
    ]  # fmt: skip


def data_cases(folder: Path) -> list[Case]:
    rows = tickets(240)
    contradicting = [ticket(row.messages[0].content, "other", 900 + i) for i, row in enumerate(rows[:30])]
    flipped = [ticket(row.messages[0].content, "billing", 900 + i) for i, row in enumerate(rows[1:60:4])]
    return [
        _but("twenty rows", "too few examples", check=checked(tickets(20), folder)),
        _but("sixty rows", "too few examples", check=checked(tickets(60), folder)),
        _but("a hundred and fifty rows", "too few examples", check=checked(tickets(150), folder)),
        _but("thirty rows contradict", "contradictions", check=checked([*rows, *contradicting], folder)),
        _but("fifteen rows contradict", "contradictions", check=checked([*rows, *flipped], folder)),
        _but("every evaluated row was trained on", "data leak", leak=leak(rows, rows[:50])),
        _but("a tenth of the evaluated rows leaks", "data leak", leak=leak(rows, [*rows[:5], *tickets(45, seed=9)])),
        _but("one evaluated row leaks", "data leak", leak=leak(rows, [rows[7], *tickets(49, seed=8)])),
        _but(
            "reworded evaluated rows leak",
            "data leak",
            leak=leak(rows, [ticket(r.messages[0].content.replace("The ", "the "), "billing", 1) for r in rows[:20]]),
        ),
    ]


def healthy_cases(folder: Path) -> list[Case]:
    rows = tickets(240)
    fine = [
        ("the healthy run itself", HEALTHY_EVENTS),
        ("converges at once", losses(fall(2.2, 0.3, 20), fall(2.2, 0.32, 20))),
        ("learns slowly and is done", losses(fall(2.2, 0.9, 4), fall(2.2, 0.95, 4))),
        ("noisy steps", losses(fall(2, 0.5), fall(2, 0.55), noise=0.3, seed=1)),
        ("noisy validation", losses(fall(2, 0.6), fall(2, 0.65), jitter=0.008, seed=2)),
        ("all of it is easy", losses(fall(1.0, 0.01, 9), fall(1.0, 0.015, 9), seed=3)),
        ("stopped early on a plateau", losses(fall(2, 0.5, 8), fall(2, 0.56, 8), reason="early_stopping", seed=4)),
        ("few evaluations", losses(fall(2, 0.5), fall(2, 0.55), evaluations=4, seed=5)),
        ("many evaluations", losses(fall(2, 0.5), fall(2, 0.55), evaluations=40, seed=6)),
        ("very noisy steps", losses(fall(1.3, 1.0), fall(1.35, 1.08), noise=0.3, seed=10)),
        ("noise of two percent", losses(fall(2, 0.6, 8), fall(2, 0.68, 8), noise=0.2, jitter=0.02, seed=11)),
        ("noise of three percent", losses(fall(2, 0.6), fall(2, 0.68), jitter=0.03, evaluations=30, seed=12)),
        ("a spike that goes away", losses(lambda t: fall(2, 0.6)(t) + 2 * (0.4 < t < 0.43), fall(2, 0.68), seed=13)),
        ("nearly perfect, and on held-out rows, too", losses(fall(1, 0.01, 8), fall(1, 0.08, 8), seed=14)),
        ("a hard task", losses(fall(4, 2.4), fall(4, 2.5), seed=7)),
        ("an easy start", losses(fall(0.5, 0.2), fall(0.5, 0.22), seed=8)),
        ("a gap that stays", losses(fall(2, 0.6, 9), fall(2, 0.8, 9), seed=9)),
        ("rewards rise, near the reference", rewards(fall(0, 1), lambda t: 0.15 * t, lambda t: 50 + 5 * t)),
        (
            "rewards rise on held-out prompts too",
            rewards(fall(0, 1), lambda t: 0.1, lambda t: 50, fall(0, 0.8), answer_loss=fall(2, 1.5), seed=1),
        ),
        ("rewards stay flat", rewards(lambda t: 0.4, lambda t: 0.02, lambda t: 50 - 5 * t, seed=2)),
    ]
    return [
        *(_but(name, "", events=events) for name, events in fine),
        _but("clean data", "", check=checked(rows, folder), leak=leak(rows, tickets(50, seed=5))),
        _but(
            "does the training rows and the others equally well", "", memory=Memory(48, 1.0, 1.0, 0.2, 0.97, 0.01, 0.03)
        ),
        _but("better than the best prompt", "", headline=prompted(accuracy(0.3, 0.95, 0.05), 0.6, 0.1)),
        _but("a little general loss", "", retention=metric("general loss", 2.9, 3.05, 0.05, better="lower")),
        _but("better at general text", "", retention=metric("general loss", 2.9, 2.6, 0.1, better="lower")),
        _but("says other things but forgot nothing", "", drift=metric("drift", 1.8, 2.6, 0.1, better="lower")),
        _but("not merged yet", "", adapter=AdapterState(merged=False, overhead=0.2)),
        _but("helped by loss only: plain text", "", headline=loss(3.0, 2.0), loss=loss(3.0, 2.0)),
    ]


def all_cases(folder: Path) -> list[Case]:
    return [*curve_cases(), *model_cases(), *data_cases(folder), *healthy_cases(folder)]
