"""The score_model grader: a number that a model gives, asked of an OpenAI-compatible endpoint as a JSON object.

The endpoint is the operator's choice and its key comes from the environment, so a client's grader can name a model
there, and nothing else.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from tunesmith.server.graders.data import ScoreModelGrader, fill
from tunesmith.server.graders.failure import GraderError
from tunesmith.settings import api_key

KEY_VARIABLE = "TUNESMITH_GRADER_KEY"

RETRIES = 4
TIMEOUT_SECONDS = 120.0


def ask_model(grader: ScoreModelGrader, reply: str, item: Mapping[str, Any], endpoint: str) -> tuple[float, int]:
    """The model's score and the tokens that it took. Raises GraderError."""
    from openai import OpenAIError

    low, high = grader.range
    number = {"type": "number", "minimum": low, "maximum": high}
    schema = {"type": "object", "properties": {"result": number}, "required": ["result"], "additionalProperties": False}
    sampling = grader.sampling_params.model_dump(exclude_none=True)
    if "max_completions_tokens" in sampling:
        sampling["max_completion_tokens"] = sampling.pop("max_completions_tokens")
    messages: Any = [
        {"role": "system", "content": f'Answer with a JSON object: {{"result": a number from {low:g} to {high:g}}}.'},
        *({"role": message.role, "content": fill(message.content, reply, item)} for message in grader.input),
    ]
    form: Any = {"type": "json_schema", "json_schema": {"name": "score", "schema": schema, "strict": True}}
    try:
        answer = _client(endpoint).chat.completions.create(
            model=grader.model, messages=messages, response_format=form, **sampling
        )
    except OpenAIError as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        raise GraderError("model_grader_server_error", f"score_model {grader.model}: {cause}") from error
    message = answer.choices[0].message
    if message.refusal:
        raise GraderError("model_grader_refusal_error", f"score_model {grader.model}: {message.refusal}")
    try:
        score = float(msgspec.json.decode(message.content or "")["result"])
    except (msgspec.DecodeError, TypeError, KeyError, ValueError) as error:
        raise GraderError(
            "model_grader_parse_error", f"score_model {grader.model}: no score in its reply: {message.content!r:.200}"
        ) from error
    if not low <= score <= high:
        raise GraderError(
            "model_grader_parse_error", f"score_model {grader.model}: {score:g} is not within {low:g} to {high:g}"
        )
    return score, answer.usage.total_tokens if answer.usage else 0


@cache
def _client(endpoint: str) -> Any:
    import openai

    key = api_key(KEY_VARIABLE) or "none"
    return openai.OpenAI(base_url=endpoint, api_key=key, max_retries=RETRIES, timeout=TIMEOUT_SECONDS)
