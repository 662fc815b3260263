"""The form that plans and starts a job: the plan beside it follows the choices."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import TypeAdapter, ValidationError

from tunesmith.api import plan as make_plan
from tunesmith.planning.gpus import known_gpus
from tunesmith.planning.plan import Plan
from tunesmith.report.html import plan_part
from tunesmith.server import files, jobs
from tunesmith.server.api.dependencies import audit
from tunesmith.server.api.jobs import DpoHyperparameters, Hyperparameters, ReinforcementHyperparameters
from tunesmith.server.dashboard.access import HOME, CheckedForm, PageRoute, ServiceOf, Visitor, VisitorOf
from tunesmith.server.dashboard.pages import page
from tunesmith.server.errors import RequestError
from tunesmith.server.graders.data import Grader
from tunesmith.server.jobs import JobRequest
from tunesmith.server.numbers import whole_number
from tunesmith.server.service import Service

router = APIRouter(prefix=HOME, route_class=PageRoute)

METHOD_LABELS: dict[str, str] = {
    "supervised": "Supervised: learn from good replies",
    "dpo": "DPO: learn from preferred and rejected replies",
    "reinforcement": "Reinforcement: learn from a reward",
}

HYPERPARAMETERS = {
    "supervised": Hyperparameters,
    "dpo": DpoHyperparameters,
    "reinforcement": ReinforcementHyperparameters,
}

REWARD_LABELS: dict[str, str] = {
    "ilike": "1 when the reply contains the reference",
    "eq": "1 when the reply is the reference, word for word",
    "fuzzy_match": "how alike reply and reference are, 0 to 1",
}
"""OpenAI's graders by their operation or metric: those that need nothing but a reference."""

REFERENCE = "{{item.reference}}"
"""The row's own reply."""

SHOWN_FILES = 200


@dataclass(frozen=True)
class Choices:
    """The form as it was filled in; empty hyperparameters are the planner's."""

    file: str = ""
    validation: str = ""
    model: str = "embedded"
    method: str = "supervised"
    suffix: str = ""
    epochs: str = ""
    batch_size: str = ""
    multiplier: str = ""
    seed: str = ""
    reward: str = "ilike"
    reference: str = REFERENCE


@router.get("/jobs/new")
def form(request: Request, service: ServiceOf, who: VisitorOf, file: str = "") -> Response:
    """The form, for one file where it is named."""
    return _form(request, service, who, Choices(file=file), problem=None)


@router.get("/jobs/plan")
def preview(
    request: Request, service: ServiceOf, who: VisitorOf, file: str = "", model: str = "embedded", gpu: str = ""
) -> Response:
    """The plan for a file and a model, without a frame."""
    if not file:
        return page("error_part.html.j2", request, who, message="Choose a training file to see its plan")
    record = service.store.get_file(who.owner, file)
    path = files.path_of(service.settings, record)
    plan = _planned(path, service.catalogue.trainable(who.owner, model).base, gpu or None)
    return page("plan.html.j2", request, who, body=plan_part(plan), plan=plan)


@router.post("/jobs", dependencies=[CheckedForm])
def start(
    request: Request,
    service: ServiceOf,
    who: VisitorOf,
    file: Annotated[str, Form(max_length=128)] = "",
    validation: Annotated[str, Form(max_length=128)] = "",
    model: Annotated[str, Form(max_length=512)] = "embedded",
    method: Annotated[str, Form(max_length=32)] = "supervised",
    suffix: Annotated[str, Form(max_length=64)] = "",
    epochs: Annotated[str, Form(max_length=16)] = "",
    batch_size: Annotated[str, Form(max_length=16)] = "",
    multiplier: Annotated[str, Form(max_length=16)] = "",
    seed: Annotated[str, Form(max_length=16)] = "",
    reward: Annotated[str, Form(max_length=32)] = "ilike",
    reference: Annotated[str, Form(max_length=1024)] = REFERENCE,
) -> Response:
    """Create the job, or show the form again with what is wrong."""
    choices = Choices(file, validation, model, method, suffix, epochs, batch_size, multiplier, seed, reward, reference)
    try:
        job = jobs.create_job(service, who.owner, _request(choices))
    except RequestError as error:
        return _form(request, service, who, choices, problem=str(error))
    audit(request, "job.create", job.id)
    return RedirectResponse(f"{HOME}/jobs/{job.id}", 303)


def _request(choices: Choices) -> JobRequest:
    """What the form asks for. Raises RequestError naming the field."""
    if not choices.file:
        raise RequestError("Training file: choose one")
    if choices.method not in METHOD_LABELS:
        raise RequestError(f"Method: {choices.method} is not known")
    seed = whole_number(choices.seed)
    if choices.seed and seed is None:
        raise RequestError("Seed: give a whole number of up to 15 digits, or leave it empty")
    asked = {
        "n_epochs": choices.epochs.strip() or "auto",
        "batch_size": choices.batch_size.strip() or "auto",
        "learning_rate_multiplier": choices.multiplier.strip() or "auto",
    }
    return JobRequest(
        model=choices.model,
        training_file=choices.file,
        validation_file=choices.validation or None,
        method=cast(Any, choices.method),  # one of METHOD_LABELS
        hyperparameters=_checked(HYPERPARAMETERS[choices.method], asked),
        grader=_grader(choices) if choices.method == "reinforcement" else None,
        suffix=choices.suffix.strip() or None,
        seed=seed,
    )


def _grader(choices: Choices) -> dict[str, Any]:
    """The grader that gives the reward. Raises RequestError."""
    kinds = {
        "ilike": {"type": "string_check", "operation": "ilike"},
        "eq": {"type": "string_check", "operation": "eq"},
        "fuzzy_match": {"type": "text_similarity", "evaluation_metric": "fuzzy_match"},
    }
    if choices.reward not in kinds:
        raise RequestError(f"Reward: {choices.reward} is not known")
    made = {"name": "reward", "input": "{{sample.output_text}}", "reference": choices.reference.strip() or REFERENCE}
    try:
        return dict(TypeAdapter[Any](Grader).validate_python(made | kinds[choices.reward]).model_dump())
    except ValidationError as error:
        raise RequestError(f"Reference: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error


def _checked(form: type[Hyperparameters], asked: dict[str, str]) -> dict[str, Any]:
    names = {"n_epochs": "Epochs", "batch_size": "Batch size", "learning_rate_multiplier": "Learning rate multiplier"}
    try:
        return form.model_validate(asked).model_dump()
    except ValidationError as error:
        problem = error.errors()[-1]
        raise RequestError(
            f"{names[str(problem['loc'][0])]}: {problem['input']} will not do: {problem['msg'].lower().split(',')[0]}; "
            "leave it empty and the planner chooses"
        ) from error


def _form(request: Request, service: Service, who: Visitor, choices: Choices, *, problem: str | None) -> Response:
    found = service.store.list_files(who.owner, purpose=files.PURPOSE, after=None, limit=SHOWN_FILES)
    return page(
        "new_job.html.j2",
        request,
        who,
        status=200 if problem is None else 400,
        files=found.items,
        models=sorted(entry.id for entry in service.catalogue.entries(who.owner)),
        methods=METHOD_LABELS,
        rewards=REWARD_LABELS,
        gpus=[gpu.name for gpu in known_gpus()],
        choices=choices,
        problem=problem,
    )


@lru_cache(maxsize=64)
def _planned(path: Path, model: str, gpu: str | None) -> Plan:
    """The plan for an upload, whose bytes never change."""
    return make_plan(path, model, gpu=gpu)
