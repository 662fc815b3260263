"""From what a job asks for to the run spec that trains it: `"auto"` is what the planner says, the rest is as asked.

OpenAI's three methods are choices of our objective; the adapter is the plan's. A method is offered when the run spec
can express it, so there is one list of objectives, not two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tunesmith.dataset.conversation import Conversation
from tunesmith.planning.plan import make_plan, plan_to_spec
from tunesmith.server.errors import RequestError
from tunesmith.server.store import JobRecord
from tunesmith.spec import RunSpec, parse_spec

OBJECTIVES = {"supervised": "sft", "dpo": "dpo"}
"""OpenAI's method → our objective."""

HOLDOUT = 0.1
"""Share of the rows held out when a job names no validation file: without any, overfitting goes unseen."""

LEAST_ROWS_TO_HOLD_OUT = 20
"""With fewer, a tenth would judge nothing and be missed in training."""

CHECKPOINTS_PER_JOB = 10
"""At least that many, so a killed job loses a tenth; long jobs save each `MOST_STEPS_BETWEEN` steps."""

MOST_STEPS_BETWEEN = 50


@dataclass(frozen=True)
class JobPlan:
    """The spec that trains the job, its hyperparameters as OpenAI names them, and what the planner warns about."""

    spec: RunSpec
    hyperparameters: dict[str, Any]
    warnings: tuple[str, ...]


def check_method(kind: str) -> None:
    """Raise RequestError when this version cannot train with a method."""
    if kind not in OBJECTIVES or not _spec_accepts(OBJECTIVES[kind]):
        known = [name for name, objective in OBJECTIVES.items() if _spec_accepts(objective)]
        raise RequestError(
            f"method.type {kind}: this server trains with {', '.join(known)}",
            code="unsupported_method",
            param="method.type",
        )


def plan_job(
    job: JobRecord, rows: Sequence[Conversation], *, train: Path, validation: Path | None, base: str, output: Path
) -> JobPlan:
    """Plan `job` on `rows`, which are those of the file `train`. Raises SpecError, DataError or ModelError."""
    plan = make_plan(rows, base)
    values = plan_to_spec(plan, str(train), output=str(output)).model_dump(mode="json", exclude_unset=True)
    asked = job.hyperparameters
    training = values["training"]
    training["epochs"] = _asked(asked, "n_epochs", training["epochs"])
    training["batch_size"] = _asked(asked, "batch_size", training["batch_size"])
    multiplier = _asked(asked, "learning_rate_multiplier", 1.0)
    training["learning_rate"] *= multiplier
    training["seed"] = job.seed % 2**32
    training["early_stopping"] = None  # the epochs are what was asked for; the best step's weights are kept
    held_out = validation is None and len(rows) >= LEAST_ROWS_TO_HOLD_OUT
    steps = -(-len(rows) // training["batch_size"]) * training["epochs"]
    training["checkpoint_every"] = min(MOST_STEPS_BETWEEN, max(1, int(steps) // CHECKPOINTS_PER_JOB))
    objective: dict[str, Any] = {"kind": OBJECTIVES[job.method["type"]]}
    hyperparameters = {
        "n_epochs": training["epochs"],
        "batch_size": training["batch_size"],
        "learning_rate_multiplier": multiplier,
    }
    if job.method["type"] == "dpo":
        objective["beta"] = hyperparameters["beta"] = _asked(asked, "beta", 0.1)
    spec = parse_spec(
        values
        | {
            "model": base,
            "data": {
                "train": str(train),
                "eval": None if validation is None else str(validation),
                "holdout": HOLDOUT if held_out else 0.0,
            },
            "objective": objective,
            "output": str(output),
        },
        name="job",
    )
    return JobPlan(spec, hyperparameters, plan.warnings)


def find_unfit(rows: Sequence[Conversation], method: str) -> Conversation | None:
    """The first row that the method cannot learn from: a preference is missing, or a reply is judged bad."""
    if method == "dpo":
        return next((row for row in rows if not row.rejected), None)
    return next((row for row in rows if row.desirable is False), None)


def why_unfit(row: Conversation) -> str:
    """Why `find_unfit` gave this row, and the mend."""
    if row.desirable is False:
        return "labelled as a reply not to imitate; remove the row"
    return "no rejected reply beside the preferred one; dpo needs both in each row"


def _asked(hyperparameters: dict[str, Any], name: str, planned: Any) -> Any:
    value = hyperparameters.get(name, "auto")
    return planned if value in ("auto", None) else value


def _spec_accepts(objective: str) -> bool:
    field = RunSpec.model_fields["objective"]
    adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
    try:
        adapter.validate_python({"kind": objective})
    except ValidationError:
        return False
    return True
