"""Planted runs get the verdict they were built for, and healthy ones none."""

from pathlib import Path

import msgspec
import pytest

from tunesmith.evaluation.result import Estimate, MetricComparison
from tunesmith.evaluation.verdicts import Curves, judge_fit, judge_help, judge_retention, read_curves
from tunesmith.training.events import EndEvent, EvalEvent, StepEvent


def metric(name: str, base: float, tuned: float, half: float, better: str = "higher") -> MetricComparison:
    difference = Estimate(tuned - base, tuned - base - half, tuned - base + half)
    return MetricComparison(
        name=name,
        better=better,  # type: ignore[arg-type]
        base=Estimate(base, base - half, base + half),
        tuned=Estimate(tuned, tuned - half, tuned + half),
        difference=difference,
        significant=difference.low > 0 or difference.high < 0,
        rows=80,
        method="planted",
    )


def accuracy(base: float, tuned: float, half: float = 0.1) -> MetricComparison:
    return metric("accuracy", base, tuned, half)


def loss(base: float, tuned: float, half: float = 0.1) -> MetricComparison:
    return metric("loss", base, tuned, half, "lower")


def curves(training: list[float], validation: list[float], kept: int | None = None) -> Curves:
    return Curves(tuple(range(10, 10 * len(training) + 10, 10)), tuple(training), tuple(validation), kept)


@pytest.mark.parametrize(
    ("headline", "status", "word"),
    [
        (accuracy(0.2, 0.9), "good", "helped"),
        (accuracy(0.9, 0.5), "bad", "hurt"),
        (accuracy(0.5, 0.55), "warn", "shows no difference"),
        (accuracy(0.97, 0.98), "warn", "already good"),
        (loss(2.0, 0.5), "good", "helped"),
        (loss(2.0, 2.5), "bad", "hurt"),
    ],
)
def test_did_it_help(headline: MetricComparison, status: str, word: str) -> None:
    verdict = judge_help(headline, loss(2.0, 1.0))
    assert verdict.status == status
    assert word in verdict.finding
    assert (verdict.mend == "") == (status == "good")


def test_a_handful_of_rows_proves_nothing() -> None:
    few = msgspec.structs.replace(accuracy(0.0, 1.0), rows=5)
    assert judge_help(few, loss(2.0, 1.0)).status == "warn"


def test_a_difference_too_small_to_see_names_the_one_that_can_be_seen() -> None:
    verdict = judge_help(accuracy(0.5, 0.55, half=0.1), loss(2.0, 1.99))
    assert "No difference" in verdict.finding
    assert "14 points" in verdict.mend  # 2.8 standard errors of 0.1 / 1.96


@pytest.mark.parametrize(
    ("planted", "status", "word"),
    [
        (curves([2.0, 1.0, 0.5, 0.2], [1.9, 1.2, 1.3, 1.6]), "bad", "Overfitted"),
        (curves([2.0, 1.0, 0.5, 0.2], [1.9, 1.2, 1.3, 1.6], kept=20), "warn", "were kept"),
        (curves([2.0, 1.0, 0.8, 0.6], [1.9, 1.2, 1.195, 1.19]), "warn", "Memorization"),
        (curves([2.0, 0.2, 0.04, 0.01], [1.9, 1.5, 1.3, 1.1]), "warn", "by heart"),
        (curves([], []), "warn", "No validation loss"),
        (curves([2.0, 1.5, 1.2, 1.1], [1.9, 1.5, 1.3, 1.2]), "good", "No sign"),
        (curves([2.0, 0.5, 0.02, 0.01], [1.0, 0.3, 0.015, 0.016]), "good", "No sign"),
        (curves([2.0, 1.0, 0.99, 0.98], [1.9, 1.2, 1.21, 1.2]), "good", "No sign"),
        (curves([2.0], [1.5]), "good", "No sign"),
        (curves([1.0, 1.5, 2.0], [1.0, 1.6, 2.1]), "good", "No sign"),  # diverged: both rise, not overfitting
    ],
)
def test_overfitting_is_read_off_the_curves(planted: Curves, status: str, word: str) -> None:
    verdict = judge_fit(planted)
    assert (verdict.status, word in verdict.finding) == (status, True), verdict


@pytest.mark.parametrize(
    ("general", "status"),
    [
        (loss(2.0, 2.1, half=0.05), "good"),
        (loss(2.0, 2.3, half=0.05), "warn"),
        (loss(2.0, 3.0, half=0.05), "bad"),
        (loss(2.0, 3.0, half=1.5), "good"),
        (loss(2.0, 1.5, half=0.05), "good"),
    ],
)
def test_forgetting_is_a_rise_of_the_loss_on_general_text(general: MetricComparison, status: str) -> None:
    assert judge_retention(general).status == status


def step(number: int, value: float) -> StepEvent:
    return StepEvent(number, value, 1e-4, 1.0, 100, 10, 0.1, 0.1)


def test_curves_are_read_from_the_event_log_without_its_torn_last_line(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    events = [
        step(1, 3.0),
        step(2, 1.0),
        EvalEvent(2, 1.5, 90, 0.1, True),
        step(3, 0.5),
        EvalEvent(3, 1.2, 90, 0.1, True),
    ]
    lines = [msgspec.json.encode(event) for event in (*events, EndEvent(3, "finished", 3, 1.0))]
    log.write_bytes(b"\n".join(lines) + b'\n{"event": "ste')
    assert read_curves(log) == Curves((2, 3), (2.0, 0.5), (1.5, 1.2), 3)


def test_a_missing_event_log_has_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path / "events.jsonl").steps == ()
