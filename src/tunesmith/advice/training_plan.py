"""If it comes to fine-tuning: which model, by which method, on what, for how much.

The model asked about is the first choice. A smaller one is the largest known model of its family with at most a
quarter of its parameters: one task needs less than all of them. Where the model cannot be planned for (behind an
endpoint, under a name that no table has), a known open one that suits the task stands in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.advice.result import Training
from tunesmith.dataset.conversation import Conversation
from tunesmith.errors import ModelError
from tunesmith.evaluation.metrics import Task
from tunesmith.planning.inference import TokenPrice, hosted_price, own_price
from tunesmith.planning.plan import METHOD_NAMES, make_plan
from tunesmith.planning.shapes import ModelShape, known_models, load_shape, shape_of

SMALLER = 0.25
"""A smaller model has at most this share of the parameters: less would not be felt in the price."""

OPEN_MODELS: dict[Task, str] = {
    "classification": "Qwen/Qwen2.5-1.5B",
    "extraction": "Qwen/Qwen2.5-3B",
    "free text": "Qwen/Qwen2.5-7B",
}
"""Where nothing is known of the model: labels need little capacity, free text more."""


@dataclass(frozen=True)
class Subject:
    """The model that was asked about: its shape where it is open, and what its calls cost where that is known."""

    name: str
    shape: ModelShape | None
    price: TokenPrice | None


def subject(model: str, prices: Path | None = None) -> Subject:
    """What is known of `model`. A hosted model with a list price is looked for nowhere else."""
    hosted = hosted_price(model, prices)
    if hosted is not None:
        return Subject(model, None, hosted)
    try:
        shape = load_shape(model)
    except ModelError:  # behind an endpoint under a name of its own
        return Subject(model, None, None)
    return Subject(model, shape, own_price(shape))


def plan_training(
    rows: Sequence[Conversation], about: Subject, task: Task, *, smaller: bool, prices: Path | None
) -> Training:
    """Fine-tuning the model asked about, or with `smaller` a smaller relative of it, on `rows`."""
    small = smaller_model(about.shape, task) if smaller else None
    name = small or (OPEN_MODELS[task] if about.shape is None else about.shape.name)
    plan = make_plan(rows, name, prices=prices)
    hosted = next((cost for cost in plan.costs if cost.model.lower() == f"{about.name.lower()} ft"), None)
    if hosted is not None and small is None:
        provider = f"{hosted.provider}'s fine-tuning API"
        return Training(about.name, None, provider, None, hosted.hours, hosted.training_usd, smaller=False)
    own = next((cost for cost in plan.costs if cost.provider == "Self-hosted"), None)
    return Training(
        model=name,
        parameters=plan.model.parameters,
        method=METHOD_NAMES[plan.method],
        gpu=plan.cost_gpu,
        hours=plan.hours,
        usd=None if own is None else own.training_usd,
        smaller=small is not None,
    )


def smaller_model(shape: ModelShape | None, task: Task) -> str | None:
    """The largest known model with at most a quarter of the parameters, of the same family if there is one."""
    if shape is None:
        return OPEN_MODELS[task]
    known = [shape_of(config, name) for name, config in known_models().items()]
    small = [other for other in known if other.parameters <= SMALLER * shape.parameters]
    family = [other for other in small if other.family == shape.family] or small
    return max(family, key=lambda other: other.parameters).name if family else None
