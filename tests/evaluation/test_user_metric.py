from pathlib import Path

import pytest

from tunesmith.errors import SpecError
from tunesmith.evaluation.user_metric import load_metric

SOURCE = """
def short_enough(reply, reference):
    return len(reply) <= 5

def distance(reply, reference):
    return abs(len(reply) - len(reference))
distance.better = "lower"

def broken(reply, reference):
    return reply["key"]

def endless(reply, reference):
    return float("inf")

number = 3
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_metrics.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_metrics", raising=False)


def test_a_function_of_reply_and_reference_is_a_metric() -> None:
    metric = load_metric("my_metrics:short_enough")
    assert (metric.name, metric.better) == ("short enough", "higher")
    assert [metric.score("abc", ""), metric.score("abcdef", "")] == [1.0, 0.0]


def test_its_direction_may_be_turned() -> None:
    assert load_metric("my_metrics:distance").better == "lower"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:f", "cannot import no_such_module"),
        ("my_metrics:missing", "my_metrics has no missing"),
        ("my_metrics:number", "no function"),
        ("plain", "no such entry point"),
    ],
)
def test_a_metric_that_is_not_there_is_refused(name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_metric(name)


@pytest.mark.parametrize(("name", "message"), [("broken", "TypeError"), ("endless", "inf")])
def test_a_metric_that_fails_is_named_with_its_cause(name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_metric(f"my_metrics:{name}").score("abc", "")
