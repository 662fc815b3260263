"""What each verdict says, and where its thresholds lie; whole planted runs are in `test_planted.py`."""

import msgspec
import pytest
from planted_runs import accuracy, loss, metric, prompted

from tunesmith.evaluation.evidence import Memory
from tunesmith.evaluation.result import MetricComparison
from tunesmith.evaluation.verdicts import judge_drift, judge_help, judge_memory, judge_retention


@pytest.mark.parametrize(
    ("headline", "status", "word"),
    [
        (accuracy(0.2, 0.9), "good", "helped"),
        (accuracy(0.9, 0.5), "bad", "hurt"),
        (accuracy(0.5, 0.55), "warn", "shows no difference"),
        (accuracy(0.97, 0.98), "warn", "already good"),
        (prompted(accuracy(0.3, 0.9), 0.92), "warn", "prompt does as well"),
        (prompted(accuracy(0.3, 0.9), 0.85), "warn", "not surely better than a prompt"),
        (prompted(accuracy(0.3, 0.9), 0.5), "good", "helped"),
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


def test_drift_without_forgetting_is_only_a_note() -> None:
    drift = metric("drift", 1.8, 3.0, 0.1, better="lower")
    assert judge_drift(drift).status == "bad"
    assert judge_drift(drift, loss(2.0, 2.05, half=0.1)).status == "note"


@pytest.mark.parametrize(
    ("memory", "status"),
    [
        (Memory(48, 12.0, 1.0, 0.0, 0.1, 0.01, 1.2), "bad"),
        (Memory(48, 12.0, 1.0, 0.0, 0.9, 0.01, 0.1), "good"),
        (Memory(48, 12.0, 0.5, 0.0, 0.1, 0.4, 1.2), "good"),
        (Memory(4, 12.0, 1.0, 0.0, 0.6, 0.3, 0.5), "good"),  # four rows say too little
    ],
)
def test_memorized_is_reciting_training_rows_and_not_others(memory: Memory, status: str) -> None:
    assert judge_memory(memory).status == status
