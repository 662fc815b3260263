"""Graders through the official client: validated, run, and refused by what the server was not started for."""

import openai
import pytest

pytestmark = pytest.mark.slow

CHECK = {
    "type": "string_check",
    "name": "same",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}


def test_a_grader_is_given_back_as_it_was_validated(client: openai.OpenAI) -> None:
    answer = client.fine_tuning.alpha.graders.validate(grader=CHECK)
    assert answer.grader.model_dump() == CHECK


def test_a_grader_runs_on_one_reply(client: openai.OpenAI) -> None:
    multi = {"type": "multi", "name": "m", "graders": {"same": CHECK}, "calculate_output": "2 * same"}
    answer = client.fine_tuning.alpha.graders.run(grader=multi, model_sample="Rome", item={"answer": "Rome"})
    assert (answer.reward, answer.sub_rewards, answer.metadata.type) == (2, {"same": 1}, "multi")
    assert not any(value for value in answer.metadata.errors.model_dump().values())


def test_what_goes_wrong_with_a_reply_is_in_the_answer(client: openai.OpenAI) -> None:
    multi = {"type": "multi", "name": "m", "graders": {"same": CHECK}, "calculate_output": "1 / same"}
    answer = client.fine_tuning.alpha.graders.run(grader=multi, model_sample="Paris", item={"answer": "Rome"})
    assert answer.reward == 0
    assert answer.metadata.errors.formula_parse_error


@pytest.mark.parametrize(
    ("grader", "param"),
    [
        (CHECK | {"operation": "near"}, "grader.operation"),
        (CHECK | {"input": "{{env.HOME}}"}, "grader.input"),
        ({"type": "python", "name": "p", "source": "def grade(sample, item): return 1"}, "grader"),
        ({"type": "score_model", "name": "s", "model": "m", "input": [{"role": "user", "content": "?"}]}, "grader"),
        (CHECK | {"type": "text_similarity", "evaluation_metric": "cosine"}, None),
        ({"type": "multi", "name": "m", "graders": {"same": CHECK}, "calculate_output": "open()"}, "grader"),
    ],
)
def test_a_grader_that_will_not_do_is_refused(client: openai.OpenAI, grader: dict, param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.fine_tuning.alpha.graders.validate(grader=grader)
    assert param is None or error.value.param == param


def test_a_job_with_a_grader_that_is_not_served_is_refused(client: openai.OpenAI) -> None:
    grader = {"type": "python", "name": "p", "source": "def grade(sample, item): return 1"}
    with pytest.raises(openai.BadRequestError, match="--python-graders") as error:
        client.fine_tuning.jobs.create(
            model="embedded",
            training_file="file-x",
            method={"type": "reinforcement", "reinforcement": {"grader": grader}},
        )
    assert error.value.param == "method.reinforcement.grader"
