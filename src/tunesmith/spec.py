"""The run spec: one YAML file, validated whole before anything heavy loads.

Unknown keys, wrong types and senseless values are errors that name the line and the nearest known key.
Values outside the field's typical range are legal but warned about (`range_warnings`), because a deadline
is no time to argue with a tool that knows better.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tunesmith.errors import SpecError

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSpec(_Section):
    """Which rows to train on and which to hold out."""

    train: str = Field(description="a data file in any supported format")
    eval: str | None = Field(None, description="a data file for validation; null holds out a part of `train`")
    holdout: Fraction = Field(0.1, description="share held out by near-duplicate cluster when `eval` is null")


class AdapterSpec(_Section):
    """Which parameters learn."""

    kind: Literal["full", "lora"] = "lora"
    r: Positive = Field(16, description="rank of the LoRA matrices")
    alpha: Annotated[float, Field(gt=0)] = Field(32, description="LoRA scaling, usually twice the rank")
    dropout: Fraction = 0.0
    targets: Literal["all-linear"] | list[str] = Field("all-linear", description="module names to adapt")


class ObjectiveSpec(_Section):
    """What the parameters learn from."""

    kind: Literal["sft"] = "sft"


class EarlyStoppingSpec(_Section):
    """Stop when validation loss has not improved for `patience` evaluations in a row."""

    patience: Positive = 2


class TrainingSpec(_Section):
    """How they learn. Defaults follow the field's typical ranges (see `TYPICAL_RANGES`)."""

    epochs: Annotated[float, Field(gt=0)] | None = None
    steps: Positive | None = Field(None, description="optimizer steps; instead of epochs")
    batch_size: Positive = Field(16, description="rows per optimizer step; micro-batches are the engine's business")
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-4
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Fraction = Field(0.05, description="share of the steps over which the learning rate rises")
    weight_decay: Fraction = 0.01
    max_length: Annotated[int, Field(ge=8)] = Field(2048, description="tokens; longer rows are truncated")
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    early_stopping: EarlyStoppingSpec | None = EarlyStoppingSpec()
    eval_every: Positive | None = Field(None, description="steps between evaluations; null: each epoch, at least 4")
    checkpoint_every: Positive = Field(50, description="steps between checkpoints")

    @model_validator(mode="after")
    def _epochs_or_steps(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give `epochs` or `steps`, not both")
        return self

    @property
    def planned_epochs(self) -> float:
        """Epochs to train when `steps` is not given; 3 unless the spec says otherwise."""
        return 3.0 if self.epochs is None else self.epochs


class RunSpec(_Section):
    """Everything a run is made of; `load_spec` reads it from YAML."""

    model: str = Field(description="`embedded`, a folder, or a hub id")
    data: DataSpec
    adapter: AdapterSpec = AdapterSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    training: TrainingSpec = TrainingSpec()
    output: str = Field(description="the run folder")


TYPICAL_RANGES: dict[str, tuple[float, float, str]] = {
    "training.learning_rate": (1e-5, 5e-4, "lower for larger models"),
    "training.batch_size": (4, 32, "the engine accumulates micro-batches to reach it"),
    "training.epochs": (1, 5, "more data needs fewer epochs"),
    "training.warmup": (0.05, 0.10, "stabilizes early training"),
    "training.weight_decay": (0.01, 0.1, "regularization"),
    "training.max_length": (512, 4096, "match your data; truncation loses supervised tokens"),
    "adapter.r": (4, 64, "higher is more capacity and more memory"),
}
"""Low, high and the reason, per spec key: the field's usual starting points, not laws."""


def load_spec(path: Path, overrides: tuple[str, ...] = ()) -> RunSpec:
    """Read and validate the YAML file at `path`, with `key=value` overrides (`training.epochs=1`) applied.

    Relative paths in it are relative to the working directory, as on the command line.
    Raises SpecError naming file, line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path}: cannot read the run spec: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text (byte {error.start}); a run spec is a YAML file") from error
    try:
        document = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(_yaml_message(path, error)) from error
    if not isinstance(values, dict):
        raise SpecError(f"{path}: a run spec is a YAML mapping with the keys {', '.join(RunSpec.model_fields)}")
    for override in overrides:
        _apply_override(values, override)
    return parse_spec(values, name=str(path), document=document)


def parse_spec(values: dict[str, Any], name: str = "spec", document: yaml.Node | None = None) -> RunSpec:
    """Validate `values`; `document` (the composed YAML) lets errors name lines. Raises SpecError."""
    try:
        return RunSpec.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lines = [_describe(name, document, problem) for problem in problems[:2]]
        if len(problems) > 2:
            lines[1] += f" (and {len(problems) - 2} more)"
        raise SpecError("\n".join(lines)) from error


def dump_spec(spec: RunSpec) -> str:
    """The spec as YAML, every default written out, in the order of the contract."""
    values = spec.model_dump(mode="json")
    if values["training"]["epochs"] is None and values["training"]["steps"] is None:
        values["training"]["epochs"] = spec.training.planned_epochs
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def range_warnings(spec: RunSpec) -> list[str]:
    """One sentence per value that lies outside its typical range."""
    warnings = []
    for key, (low, high, reason) in TYPICAL_RANGES.items():
        section, field = key.split(".")
        value = getattr(getattr(spec, section), field)
        unused = section == "adapter" and spec.adapter.kind == "full"
        if value is not None and not unused and not low <= value <= high:
            warnings.append(f"{key} is {value:g}, outside the typical {low:g} to {high:g} ({reason})")
    return warnings


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise SpecError(f"--set {override}: write it as key=value, for example --set training.epochs=1")
    *sections, leaf = key.strip().split(".")
    target = values
    for section in sections:
        child = target.setdefault(section, {})
        if child is None:
            child = target[section] = {}
        if not isinstance(child, dict):
            raise SpecError(f"--set {override}: `{section}` is a value, not a section")
        target = child
    try:
        target[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"--set {override}: the value is not valid YAML") from error


def _describe(name: str, document: yaml.Node | None, problem: Any) -> str:
    # pydantic puts the branch of a union into the location ("list[str]"); people know only the keys.
    keys = [part for part in problem["loc"] if isinstance(part, int) or str(part).isidentifier()]
    where = _position(document, keys)
    key = ".".join(str(part) for part in keys) or "the spec"
    prefix = f"{name}:{where}: {key}" if where else f"{name}: {key}"
    match problem["type"]:
        case "extra_forbidden":
            return f"{prefix}: unknown key{_suggestion(keys)}"
        case "missing":
            return f"{prefix}: required, and missing"
        case "value_error":
            return f"{prefix}: {problem['ctx']['error']}"
        case _:
            message = problem["msg"].removeprefix("Input should be ")
            return f"{prefix}: found {problem['input']!r}; expected {message}"


def _suggestion(keys: list[Any]) -> str:
    known = _known_keys(keys[:-1])
    close = difflib.get_close_matches(str(keys[-1]), known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; known keys: {', '.join(known)}" if known else ""


def _known_keys(sections: list[Any]) -> list[str]:
    model: Any = RunSpec
    for section in sections:
        annotation = model.model_fields[section].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if model is None:
            return []
    return list(model.model_fields)


def _position(node: yaml.Node | None, keys: list[Any]) -> str:
    """`line:column` of the deepest key that exists in the document, or an empty string."""
    mark = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if pair is None:
                break
            mark, node = pair[0].start_mark, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            mark = node.start_mark
        else:
            break
    return f"{mark.line + 1}:{mark.column + 1}" if mark else ""


def _yaml_message(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
    problem = getattr(error, "problem", None) or "cannot be parsed"
    return f"{path}{where}: not valid YAML: {problem}"
