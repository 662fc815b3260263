"""OpenAI's graders as reward functions of reinforcement jobs: `string_check`, and `text_similarity` by fuzzy match.

A grader is data: templates with `{{sample.output_text}}` (the model's reply; `{{sample.output_json.NAME}}` a field of
it) and `{{item.NAME}}` (a column of the row; `{{item.reference}}` is the row's own reply). Graders that run a client's
code or ask another model are not served.
Reference: https://platform.openai.com/docs/guides/graders
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator
from rapidfuzz.fuzz import ratio

REWARD_MODULE = '''"""The grader of this job as a reward function."""

from pathlib import Path

from tunesmith.server.graders import reward_function

score = reward_function(Path(__file__).with_name("grader.json"))
'''

_TEMPLATE = re.compile(r"\{\{\s*([\w.]+)\s*\}\}")

_KNOWN = re.compile(r"sample\.output_text|sample\.output_json(\.\w+)*|item(\.\w+)+")
"""What a template may name."""


class _Grader(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=128)
    input: str = Field(max_length=16_384)
    reference: str = Field(max_length=16_384)

    @field_validator("input", "reference")
    @classmethod
    def _known(cls, template: str) -> str:
        unknown = next((name for name in _TEMPLATE.findall(template) if not _KNOWN.fullmatch(name)), None)
        if unknown is not None:
            raise ValueError(f"{{{{{unknown}}}}} is none of sample.output_text, sample.output_json.NAME, item.NAME")
        return template


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


def columns_of(grader: Grader) -> list[str]:
    """The columns of a row that the grader's templates name, in their order."""
    names = (name.split(".") for name in _TEMPLATE.findall(grader.input + grader.reference))
    return list(dict.fromkeys(parts[1] for parts in names if parts[0] == "item"))


def read_grader(data: bytes) -> Grader:
    """The grader in a JSON text that was valid before."""
    grader: Grader = TypeAdapter[Any](Grader).validate_json(data)
    return grader


def reward_function(path: Path) -> Callable[..., list[float]]:
    """The reward function of the grader in the JSON file at `path`, in the form that training calls."""
    grader = read_grader(path.read_bytes())

    def score(prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]) -> list[float]:
        items = [{name: values[index] for name, values in columns.items()} for index in range(len(prompts))]
        return [grade(grader, reply, item) for reply, item in zip(completions, items, strict=True)]

    return score


def _fill(template: str, reply: str, item: Mapping[str, Any]) -> str:
    def value(match: re.Match[str]) -> str:
        root, *keys = match[1].split(".")
        found: Any = _sample(reply, keys[0]) if root == "sample" else item
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        if found is None:
            return ""
        return found if isinstance(found, str) else msgspec.json.encode(found).decode()

    return _TEMPLATE.sub(value, template)


def _sample(reply: str, wanted: str) -> dict[str, Any]:
    """`sample` for a template that asks for `wanted` of it; a reply that is not JSON has no fields."""
    if wanted == "output_text":
        return {"output_text": reply}
    try:
        return {"output_json": json.loads(reply)}
    except (ValueError, RecursionError):
        return {}
