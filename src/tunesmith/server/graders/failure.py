"""What can go wrong while a reply is graded, by the names that OpenAI's wire has for it."""

from typing import Literal

from tunesmith.errors import TunesmithError

Kind = Literal[
    "formula_parse_error",
    "invalid_variable_error",
    "model_grader_parse_error",
    "model_grader_refusal_error",
    "model_grader_server_error",
    "other_error",
    "python_grader_runtime_error",
    "python_grader_server_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
]

OURS: frozenset[Kind] = frozenset({"model_grader_server_error", "python_grader_server_error", "other_error"})
"""Not the reply's fault: in training these stop the job, where any other is a reward of 0."""


class GraderError(TunesmithError, RuntimeError):
    """A reply could not be graded."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
