"""Graders as reward functions."""

from pathlib import Path

import msgspec
import pytest
from pydantic import TypeAdapter, ValidationError

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.server.graders import REWARD_MODULE, Grader, columns_of, grade
from tunesmith.server.job_plan import missing_column
from tunesmith.training.rewards import open_reward

CHECK = {"type": "string_check", "name": "g", "input": "{{sample.output_text}}", "reference": "{{ item.reference }}"}


def made(values: dict) -> Grader:  # type: ignore[type-arg]
    return TypeAdapter(Grader).validate_python(values)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("operation", "reply", "score"),
    [
        ("eq", "Billing", 1),
        ("eq", "billing", 0),
        ("ne", "billing", 1),
        ("like", "It is Billing.", 1),
        ("like", "it is billing", 0),
        ("ilike", "it is billing", 1),
    ],
)
def test_a_string_check_is_one_or_nothing(operation: str, reply: str, score: float) -> None:
    assert grade(made(CHECK | {"operation": operation}), reply, {"reference": "Billing"}) == score


def test_similarity_is_one_for_the_same_text_and_falls_with_each_edit() -> None:
    grader = made(CHECK | {"type": "text_similarity", "evaluation_metric": "fuzzy_match"})
    scores = [grade(grader, reply, {"reference": "refund"}) for reply in ("refund", "refond", "xyz")]
    assert scores[0] == 1
    assert scores[0] > scores[1] > scores[2] == 0


def test_templates_reach_into_columns_and_what_is_missing_is_empty() -> None:
    grader = made(CHECK | {"operation": "eq", "input": "{{item.a.b}}|{{item.none}}", "reference": "[1]|"})
    assert grade(grader, "", {"a": {"b": [1]}}) == 1
    assert columns_of(grader) == ["a", "none"]


def test_templates_reach_into_a_reply_that_is_json() -> None:
    grader = made(CHECK | {"operation": "eq", "input": "{{sample.output_json.label}}"})
    assert grade(grader, '{"label": "Billing"}', {"reference": "Billing"}) == 1
    assert grade(grader, "Billing", {"reference": "Billing"}) == 0


@pytest.mark.parametrize("template", ["{{env.HOME}}", "{{sample.tokens}}", "{{item}}"])
def test_a_template_that_names_something_else_is_refused(template: str) -> None:
    with pytest.raises(ValidationError, match="none of"):
        made(CHECK | {"operation": "eq", "input": template})


def test_a_column_that_no_row_has_is_told_beside_those_there_are() -> None:
    rows = [Conversation((Message("user", "?"), Message("assistant", "a")), metadata={"difficulty": 1})]
    assert missing_column(rows, ["difficulty", "reference"]) is None
    assert missing_column(rows, ["answer"]) == (
        "grader: no row has {{item.answer}}; there are: item.reference, item.label, item.difficulty"
    )


@pytest.mark.parametrize("kind", ["python", "score_model", "multi"])
def test_a_grader_that_would_run_code_or_ask_a_model_is_refused(kind: str) -> None:
    with pytest.raises(ValidationError):
        made(CHECK | {"type": kind})


def test_training_can_call_the_grader_of_a_job_folder(tmp_path: Path) -> None:
    (tmp_path / "grader.json").write_bytes(msgspec.json.encode(CHECK | {"operation": "eq"}))
    (tmp_path / "reward.py").write_text(REWARD_MODULE)
    rows = [Conversation((Message("user", "?"), Message("assistant", answer))) for answer in ("a", "b")]
    reward = open_reward(f"{tmp_path / 'reward.py'}:score")
    assert reward.score(rows, ["a", "a"]) == [1.0, 0.0]  # type: ignore[union-attr]
