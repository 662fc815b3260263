"""OpenAI's graders as reward functions of reinforcement jobs: `string_check`, and `text_similarity` by fuzzy match.

A grader is data: templates with `{{sample.output_text}}` (the model's reply) and `{{item.NAME}}` (a column of the row;
`{{item.reference}}` is the row's own reply). Graders that run a client's code or ask another model are not served.
Reference: https://platform.openai.com/docs/guides/graders
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from rapidfuzz.fuzz import ratio

REWARD_MODULE = '''"""The grader of this job as a reward function."""

from pathlib import Path

from tunesmith.server.graders import reward_function

score = reward_function(Path(__file__).with_name("grader.json"))
'''

_TEMPLATE = re.compile(r"\{\{\s*([\w.]+)\s*\}\}")


class _Grader(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=128)
    input: str = Field(max_length=16_384)
    reference: str = Field(max_length=16_384)


class StringCheckGrader(_Grader):
    """1 when the operation holds, else 0; `like` is containment, the `i` before it ignores case."""

    type: Literal["string_check"]
    operation: Literal["eq", "ne", "like", "ilike"]


class TextSimilarityGrader(_Grader):
    """How alike two texts are, 0 to 1: the normalized edit similarity of rapidfuzz."""

    type: Literal["text_similarity"]
    evaluation_metric: Literal["fuzzy_match"]
    pass_threshold: float | None = Field(None, description="accepted, and without effect on the reward")


Grader = Annotated[StringCheckGrader | TextSimilarityGrader, Field(discriminator="type")]


def grade(grader: Grader, reply: str, item: Mapping[str, Any]) -> float:
    """How good `reply` is, 0 to 1, for the row whose columns are `item`."""
    given, wanted = (_fill(template, reply, item) for template in (grader.input, grader.reference))
    if isinstance(grader, TextSimilarityGrader):
        return float(ratio(given, wanted)) / 100
    match grader.operation:
        case "eq":
            return float(given == wanted)
        case "ne":
            return float(given != wanted)
        case "like":
            return float(wanted in given)
        case "ilike":
            return float(wanted.casefold() in given.casefold())


def reward_function(path: Path) -> Callable[..., list[float]]:
    """The reward function of the grader in the JSON file at `path`, in the form that training calls."""
    grader: Grader = TypeAdapter[Any](Grader).validate_json(path.read_bytes())

    def score(prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]) -> list[float]:
        items = [{name: values[index] for name, values in columns.items()} for index in range(len(prompts))]
        return [grade(grader, reply, item) for reply, item in zip(completions, items, strict=True)]

    return score


def _fill(template: str, reply: str, item: Mapping[str, Any]) -> str:
    def value(match: re.Match[str]) -> str:
        root, *keys = match[1].split(".")
        found: Any = {"output_text": reply} if root == "sample" else item if root == "item" else None
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        if found is None:
            return ""
        return found if isinstance(found, str) else msgspec.json.encode(found).decode()

    return _TEMPLATE.sub(value, template)
