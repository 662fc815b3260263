"""Every planted run raises exactly the alarms it was built for, and the healthy ones raise none."""

from collections import Counter

import pytest
from planted_runs import Case, all_cases

from tunesmith.evaluation.verdicts import judge

LEAST_RIGHT = 0.95


def alarms(case: Case) -> frozenset[str]:
    return frozenset(verdict.name for verdict in judge(case.evidence) if verdict.status in ("warn", "bad"))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    return all_cases(tmp_path_factory.mktemp("planted"))


def test_the_planted_runs_are_judged_right(cases: list[Case]) -> None:
    planted = [case for case in cases if case.alarms]
    wrong = {case.name: (set(case.alarms), set(alarms(case))) for case in planted if alarms(case) != case.alarms}
    assert len(planted) >= 40
    assert len(wrong) <= (1 - LEAST_RIGHT) * len(planted), wrong


def test_the_healthy_runs_raise_no_alarm(cases: list[Case]) -> None:
    healthy = [case for case in cases if not case.alarms]
    assert {case.name: set(alarms(case)) for case in healthy if alarms(case)} == {}
    assert len(healthy) >= 20


def test_every_kind_of_alarm_is_planted(cases: list[Case]) -> None:
    counts = Counter(name for case in cases for name in case.alarms)
    assert min(counts.values()) >= 2
    assert set(counts) >= {
        "overfitting",
        "memorization",
        "memorized",
        "forgetting",
        "drift",
        "underfitting",
        "diverged",
        "no eval set",
        "too few examples",
        "contradictions",
        "base already good enough",
        "a prompt would do",
        "data leak",
        "reward hacking",
        "did it help",
    }


def test_every_alarm_has_evidence_a_mend_and_what_it_matches(cases: list[Case]) -> None:
    for case in cases:
        for verdict in judge(case.evidence):
            if verdict.status in ("warn", "bad"):
                assert verdict.evidence and verdict.mend, (case.name, verdict)
                assert verdict.signal or verdict.name == "did it help", (case.name, verdict)


def test_an_adapter_that_is_not_merged_is_a_note_with_the_command(cases: list[Case]) -> None:
    case = next(case for case in cases if case.name == "not merged yet")
    note = next(verdict for verdict in judge(case.evidence) if verdict.name == "adapter")
    assert note.status == "note"
    assert "tunesmith export" in note.mend
