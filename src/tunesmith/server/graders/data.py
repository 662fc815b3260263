"""Graders as data, in OpenAI's form, and the templates that they are made of.

A template names `{{sample.output_text}}` (the model's reply), `{{sample.output_json.NAME}}` (a field of it) and
`{{item.NAME}}` (a column of the row; `{{item.reference}}` is the row's own reply).
Reference: https://platform.openai.com/docs/guides/graders
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from tunesmith.server.graders.formula import Formula

_TEMPLATE = re.compile(r"\{\{\s*([\w.]+)\s*\}\}")

_KNOWN = re.compile(r"sample\.output_text|sample\.output_json(\.\w+)*|item(\.\w+)+")
"""What a template may name."""

MOST_GRADERS = 16
"""That one grader may combine."""


def _known(template: str) -> str:
    unknown = next((name for name in _TEMPLATE.findall(template) if not _KNOWN.fullmatch(name)), None)
    if unknown is not None:
        raise ValueError(f"{{{{{unknown}}}}} is none of sample.output_text, sample.output_json.NAME, item.NAME")
    return template


def _text(content: Any) -> Any:
    """OpenAI's text blocks as their text."""
    if isinstance(content, Mapping) and content.get("type") in ("input_text", "output_text"):
        return content.get("text")
    return content


Template = Annotated[str, Field(max_length=16_384), AfterValidator(_known)]


class _Grader(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=128)


class StringCheckGrader(_Grader):
    """1 when the operation holds, else 0; `like` is containment, the `i` before it ignores case."""

    type: Literal["string_check"]
    operation: Literal["eq", "ne", "like", "ilike"]
    input: Template
    reference: Template


Rouge = Literal["rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"]


class TextSimilarityGrader(_Grader):
    """How alike two texts are, 0 to 1."""

    type: Literal["text_similarity"]
    evaluation_metric: Literal["fuzzy_match", "bleu", "gleu", "meteor"] | Rouge
    input: Template
    reference: Template
    pass_threshold: float | None = Field(None, description="accepted, and without effect on the reward")


class ModelMessage(BaseModel):
    """A message to the model that scores; its content is a text, with templates."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[Template, BeforeValidator(_text)]
    type: Literal["message"] | None = None


class SamplingParams(BaseModel):
    """How the model that scores is sampled."""

    model_config = ConfigDict(extra="forbid")

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    max_completions_tokens: Annotated[int, Field(ge=1)] | None = None


class ScoreModelGrader(_Grader):
    """A number within `range` that a model gives."""

    type: Literal["score_model"]
    model: str = Field(max_length=512)
    input: Annotated[list[ModelMessage], Field(min_length=1, max_length=64)]
    range: tuple[float, float] = (0.0, 1.0)
    sampling_params: SamplingParams = SamplingParams()

    @model_validator(mode="after")
    def _ordered(self) -> "ScoreModelGrader":
        if not self.range[0] < self.range[1]:
            raise ValueError("range: the first number must be below the second")
        return self


class PythonGrader(_Grader):
    """What the function `grade(sample, item)` of the source returns."""

    type: Literal["python"]
    source: str = Field(max_length=262_144)
    image_tag: str | None = Field(None, description="accepted, and without effect: the server's own Python runs it")


SingleGrader = Annotated[
    StringCheckGrader | TextSimilarityGrader | ScoreModelGrader | PythonGrader, Field(discriminator="type")
]


def _named(graders: Any) -> Any:
    """The SDK's types have one grader where the wire has several by their names."""
    return {graders.get("name"): graders} if isinstance(graders, Mapping) and "type" in graders else graders


class MultiGrader(_Grader):
    """A formula over the scores of other graders."""

    type: Literal["multi"]
    graders: Annotated[dict[str, SingleGrader], BeforeValidator(_named), Field(min_length=1, max_length=MOST_GRADERS)]
    calculate_output: str = Field(max_length=1_024)

    @model_validator(mode="after")
    def _computable(self) -> "MultiGrader":
        Formula(self.calculate_output, self.graders)
        return self


Grader = Annotated[
    StringCheckGrader | TextSimilarityGrader | ScoreModelGrader | PythonGrader | MultiGrader,
    Field(discriminator="type"),
]


def parts(grader: Grader) -> list[Grader]:
    """The graders that `grader` is made of: itself, or those that it combines."""
    return list(grader.graders.values()) if isinstance(grader, MultiGrader) else [grader]


def columns_of(grader: Grader) -> list[str]:
    """The columns of a row that the grader's templates name, in their order."""
    names = (name.split(".") for template in _templates(grader) for name in _TEMPLATE.findall(template))
    return list(dict.fromkeys(parts[1] for parts in names if parts[0] == "item"))


def _templates(grader: Grader) -> Iterator[str]:
    for one in parts(grader):
        match one:
            case StringCheckGrader() | TextSimilarityGrader():
                yield from (one.input, one.reference)
            case ScoreModelGrader():
                yield from (message.content for message in one.input)
            case _:
                pass


def read_grader(data: bytes) -> Grader:
    """The grader in a JSON text that was valid before."""
    grader: Grader = TypeAdapter[Any](Grader).validate_json(data)
    return grader


def fill(template: str, reply: str, item: Mapping[str, Any]) -> str:
    """The template with what it names; what is missing is empty."""

    def value(match: re.Match[str]) -> str:
        root, *keys = match[1].split(".")
        found: Any = sample(reply) if root == "sample" else item
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        if found is None:
            return ""
        return found if isinstance(found, str) else msgspec.json.encode(found).decode()

    return _TEMPLATE.sub(value, template)


def sample(reply: str) -> dict[str, Any]:
    """`sample` of a reply; one that is not JSON has no `output_json`."""
    try:
        return {"output_text": reply, "output_json": json.loads(reply)}
    except (ValueError, RecursionError):
        return {"output_text": reply}
