"""Graders as reward functions."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import nltk
import pytest
from pydantic import TypeAdapter, ValidationError

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.errors import MissingDependencyError
from tunesmith.server.graders import model
from tunesmith.server.graders.data import Grader, columns_of
from tunesmith.server.graders.failure import GraderError
from tunesmith.server.graders.formula import Formula
from tunesmith.server.graders.grade import REWARD_MODULE, GraderFile, grade, reward_function
from tunesmith.server.graders.similarity import check_metric, similarity
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
    assert grade(made(CHECK | {"operation": operation}), reply, {"reference": "Billing"}).reward == score


def test_similarity_is_one_for_the_same_text_and_falls_with_each_edit() -> None:
    grader = made(CHECK | {"type": "text_similarity", "evaluation_metric": "fuzzy_match"})
    scores = [grade(grader, reply, {"reference": "refund"}).reward for reply in ("refund", "refond", "xyz")]
    assert scores[0] == 1
    assert scores[0] > scores[1] > scores[2] == 0


def test_templates_reach_into_columns_and_what_is_missing_is_empty() -> None:
    grader = made(CHECK | {"operation": "eq", "input": "{{item.a.b}}|{{item.none}}", "reference": "[1]|"})
    assert grade(grader, "", {"a": {"b": [1]}}).reward == 1
    assert columns_of(grader) == ["a", "none"]


def test_templates_reach_into_a_reply_that_is_json() -> None:
    grader = made(CHECK | {"operation": "eq", "input": "{{sample.output_json.label}}"})
    assert grade(grader, '{"label": "Billing"}', {"reference": "Billing"}).reward == 1
    assert grade(grader, "Billing", {"reference": "Billing"}).reward == 0


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


@pytest.mark.parametrize("metric", ["fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_2", "rouge_5", "rouge_l"])
def test_a_text_is_most_like_itself(metric: str) -> None:
    text = "the parcel has not arrived at my door"
    close = similarity(metric, "the parcel has not arrived at my place", text)
    assert similarity(metric, text, text) == pytest.approx(1)
    assert 0 < close < 1
    assert similarity(metric, "no", text) < 0.2
    assert similarity(metric, "", text) == 0


def test_rouge_counts_words_in_common() -> None:
    assert similarity("rouge_1", "a b c d", "a b x y") == pytest.approx(0.5)
    assert similarity("rouge_2", "a b c d", "a b x y") == pytest.approx(1 / 3)


def test_meteor_without_wordnet_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(MissingDependencyError, match="downloader wordnet"):
        check_metric("meteor")


@pytest.mark.parametrize(
    ("formula", "value"),
    [("0.5 * a + 0.5 * b", 0.75), ("max(a, b) ^ 2", 1), ("-abs(a - b) / 2", -0.25), ("floor(a) + ceil(a)", 1)],
)
def test_a_formula_is_arithmetic_over_scores(formula: str, value: float) -> None:
    assert Formula(formula, {"a", "b"})({"a": 0.5, "b": 1.0}) == pytest.approx(value)


@pytest.mark.parametrize(
    "formula", ["c", "a.real", "__import__('os')", "a if b else a", "[a][0]", "a; b", "", "lambda: a", "min", "'a' * 9"]
)
def test_a_formula_that_is_more_than_arithmetic_is_refused(formula: str) -> None:
    with pytest.raises(ValueError, match="calculate_output"):
        Formula(formula, {"a", "b"})


@pytest.mark.parametrize("formula", ["1 / a", "9 ^ 9 ^ 9", "log(a)", "exp(9999)", "-" * 900 + "(1 / a)"])
def test_a_formula_without_a_value_is_an_error_of_the_reply(formula: str) -> None:
    multi = {"type": "multi", "name": "m", "graders": {"a": CHECK | {"operation": "eq"}}, "calculate_output": formula}
    found = grade(made(multi), "x", {"reference": "y"})
    assert found.error is not None
    assert found.error.kind == "formula_parse_error"


def test_several_graders_are_combined_by_their_names() -> None:
    graders = {"same": CHECK | {"operation": "eq"}, "within": CHECK | {"operation": "like"}}
    multi = {"type": "multi", "name": "m", "graders": graders, "calculate_output": "same + within / 2"}
    assert grade(made(multi), "it is a", {"reference": "a"}).reward == 0.5
    alone = multi | {"graders": CHECK | {"operation": "eq"}, "calculate_output": "g"}
    assert grade(made(alone), "a", {"reference": "a"}).scores == {"g": 1}
    assert columns_of(made(multi)) == ["reference"]


def test_a_python_grader_runs_in_the_sandbox() -> None:
    source = "def grade(sample, item):\n    return len(sample['output_text']) / item['most']"
    grader = made({"type": "python", "name": "p", "source": source})
    assert grade(grader, "abc", {"most": 4}).reward == 0.75
    broken = grade(grader, "abc", {"most": 0})
    assert broken.error is not None
    assert broken.error.kind == "python_grader_runtime_error"
    assert "ZeroDivisionError" in str(broken.error)


def test_a_python_grader_has_no_network() -> None:
    source = "import socket\ndef grade(sample, item):\n    socket.socket()\n    return 1"
    error = grade(made({"type": "python", "name": "p", "source": source}), "", {}).error
    assert error is not None
    assert "PermissionError" in str(error)


SCORE = {
    "type": "score_model",
    "name": "s",
    "model": "judge",
    "input": [{"role": "user", "content": "Rate {{sample.output_text}}"}],
    "range": [0, 10],
}


@pytest.mark.parametrize(
    ("said", "reward", "kind"),
    [
        ('{"result": 7}', 7, None),
        ('{"result": 70}', 0, "model_grader_parse_error"),
        ("seven", 0, "model_grader_parse_error"),
    ],
)
def test_a_model_gives_the_score(monkeypatch: pytest.MonkeyPatch, said: str, reward: float, kind: str | None) -> None:
    asked: dict[str, Any] = {}

    def create(**request: Any) -> Any:
        asked.update(request)
        message = SimpleNamespace(content=said, refusal=None)
        return SimpleNamespace(choices=[SimpleNamespace(message=message)], usage=SimpleNamespace(total_tokens=9))

    client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))
    monkeypatch.setattr(model, "_client", lambda _endpoint: client)
    found = grade(made(SCORE), "this", {}, "http://judge/v1")
    assert (found.reward, None if found.error is None else found.error.kind) == (reward, kind)
    assert asked["messages"][-1] == {"role": "user", "content": "Rate this"}


def test_a_server_that_is_not_there_stops_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(model, "RETRIES", 0)
    (tmp_path / "grader.json").write_bytes(msgspec.json.encode(GraderFile(SCORE, "http://127.0.0.1:9/v1")))
    with pytest.raises(GraderError, match="score_model judge"):
        reward_function(tmp_path / "grader.json")(["?"], ["this"])


def test_training_can_call_the_grader_of_a_job_folder(tmp_path: Path) -> None:
    kept = GraderFile(CHECK | {"operation": "eq"}, None)
    (tmp_path / "grader.json").write_bytes(msgspec.json.encode(kept))
    (tmp_path / "reward.py").write_text(REWARD_MODULE)
    rows = [Conversation((Message("user", "?"), Message("assistant", answer))) for answer in ("a", "b")]
    reward = open_reward(f"{tmp_path / 'reward.py'}:score")
    assert reward.score(rows, ["a", "a"]) == [1.0, 0.0]  # type: ignore[union-attr]
