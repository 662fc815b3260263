"""`/v1/fine_tuning/alpha/graders`: try a grader on one reply, or only look whether it would do."""

from typing import Any, get_args

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.server.api.dependencies import CallerOf, ServiceOf
from tunesmith.server.graders.data import Grader, MultiGrader
from tunesmith.server.graders.failure import Kind
from tunesmith.server.graders.grade import Grade, grade
from tunesmith.server.jobs import check_grader

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["Fine-tuning"])


class ValidateBody(BaseModel):
    """A grader to look at."""

    model_config = ConfigDict(extra="forbid")

    grader: Grader


class RunBody(ValidateBody):
    """A grader, a reply, and the row that it replies to."""

    model_sample: str
    item: dict[str, Any] = Field(default_factory=dict)


@router.post("/validate", summary="Look whether a grader would do")
def validate(service: ServiceOf, _caller: CallerOf, body: ValidateBody) -> dict[str, Any]:
    """The grader, if this server can run it."""
    check_grader(service.settings, body.grader, param="grader")
    return {"grader": body.grader.model_dump(exclude_none=True)}


@router.post("/run", summary="Grade one reply")
def run(service: ServiceOf, _caller: CallerOf, body: RunBody) -> dict[str, Any]:
    """The reward, and how it came about."""
    check_grader(service.settings, body.grader, param="grader")
    return _body(body.grader, grade(body.grader, body.model_sample, body.item, service.settings.grader_url))


def _body(grader: Grader, made: Grade) -> dict[str, Any]:
    errors: dict[str, Any] = dict.fromkeys(get_args(Kind), False)
    details: dict[str, str | None] = {
        "model_grader_server_error_details": None,
        "python_grader_runtime_error_details": None,
        "python_grader_server_error_type": None,
    }
    if made.error is not None:
        errors[made.error.kind] = True
        field = next((name for name in details if name.startswith(made.error.kind)), None)
        if field is not None:
            details[field] = str(made.error)
    return {
        "reward": made.reward,
        "metadata": {
            "name": grader.name,
            "type": grader.type,
            "errors": errors | details,
            "execution_time": made.seconds,
            "scores": made.scores,
            "token_usage": sum(made.tokens.values()) if made.tokens else None,
            "sampled_model_name": next(iter(made.tokens), None),
        },
        "sub_rewards": made.scores if isinstance(grader, MultiGrader) else {},
        "model_grader_token_usage_per_model": made.tokens,
    }
