"""Grades replies: one at a time with everything that is known of it, or many as the reward function of training."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import Struct, json

from tunesmith.server.graders import data
from tunesmith.server.graders.data import (
    Grader,
    MultiGrader,
    PythonGrader,
    ScoreModelGrader,
    StringCheckGrader,
    TextSimilarityGrader,
    fill,
    sample,
)
from tunesmith.server.graders.failure import OURS, GraderError
from tunesmith.server.graders.formula import Formula
from tunesmith.server.graders.model import ask_model
from tunesmith.server.graders.python_code import run_python
from tunesmith.server.graders.similarity import similarity

REWARD_MODULE = '''"""The grader of this job as a reward function."""

from pathlib import Path

from tunesmith.server.graders.grade import reward_function

score = reward_function(Path(__file__).with_name("grader.json"))
'''

PARALLEL_REPLIES = 8
"""Graded at a time: those that wait for a model or a process cost this one little."""


class GraderFile(Struct, frozen=True):
    """What a job's folder keeps: the grader as it came, and where models are asked for scores."""

    grader: dict[str, Any]
    endpoint: str | None


@dataclass
class Grade:
    """How good a reply is: `reward`, and the `scores` that it is made of; `tokens` are what models took, by model."""

    reward: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    error: GraderError | None = None


def grade(grader: Grader, reply: str, item: Mapping[str, Any], endpoint: str | None = None) -> Grade:
    """Grade `reply` for the row whose columns are `item`; what goes wrong is in the grade, with a reward of 0."""
    made, started = Grade(), time.perf_counter()
    try:
        if isinstance(grader, MultiGrader):
            for name, one in grader.graders.items():
                made.scores[name] = _score(one, reply, item, endpoint, made)
            made.reward = _combine(grader, made.scores)
        else:
            made.reward = made.scores[grader.name] = _score(grader, reply, item, endpoint, made)
    except GraderError as error:
        made.error = error
    made.seconds = time.perf_counter() - started
    return made


def reward_function(path: Path) -> Callable[..., list[float]]:
    """The reward function of the `GraderFile` at `path`, in the form that training calls."""
    kept = json.decode(path.read_bytes(), type=GraderFile)
    grader = data.read_grader(json.encode(kept.grader))

    def score(prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]) -> list[float]:
        items = [{name: values[index] for name, values in columns.items()} for index in range(len(prompts))]
        with ThreadPoolExecutor(PARALLEL_REPLIES) as pool:
            grades = list(pool.map(lambda reply, item: grade(grader, reply, item, kept.endpoint), completions, items))
        for made in grades:
            if made.error is not None and made.error.kind in OURS:
                raise made.error
        return [made.reward for made in grades]

    return score


def _score(grader: Grader, reply: str, item: Mapping[str, Any], endpoint: str | None, made: Grade) -> float:
    match grader:
        case StringCheckGrader():
            return _check(grader, fill(grader.input, reply, item), fill(grader.reference, reply, item))
        case TextSimilarityGrader():
            given, wanted = (fill(template, reply, item) for template in (grader.input, grader.reference))
            return similarity(grader.evaluation_metric, given, wanted)
        case PythonGrader():
            return run_python(grader.source, sample(reply), item)
        case ScoreModelGrader() if endpoint is not None:
            score, tokens = ask_model(grader, reply, item, endpoint)
            made.tokens[grader.model] = made.tokens.get(grader.model, 0) + tokens
            return score
    raise GraderError("other_error", f"{grader.type}: no endpoint to ask")


def _check(grader: StringCheckGrader, given: str, wanted: str) -> float:
    match grader.operation:
        case "eq":
            return float(given == wanted)
        case "ne":
            return float(given != wanted)
        case "like":
            return float(wanted in given)
        case "ilike":
            return float(wanted.casefold() in given.casefold())


def _combine(grader: MultiGrader, scores: Mapping[str, float]) -> float:
    try:
        return Formula(grader.calculate_output, grader.graders)(scores)
    except (ArithmeticError, ValueError) as error:
        raise GraderError("formula_parse_error", f"calculate_output: {error}") from error
