"""From what a job asks for to the run spec that trains it: `"auto"` is what the planner says, the rest is as asked.

OpenAI's three methods are choices of our objective; the adapter is the plan's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.dataset.conversation import Conversation
from tunesmith.planning.plan import make_plan, plan_to_spec
from tunesmith.server.records import JobRecord
from tunesmith.spec import RunSpec, parse_spec

OBJECTIVES = {"supervised": "sft", "dpo": "dpo", "reinforcement": "grpo"}
"""OpenAI's method → our objective."""

HOLDOUT = 0.1
"""Share of the rows held out when a job names no validation file: without any, overfitting goes unseen."""

LEAST_ROWS_TO_HOLD_OUT = 20
"""With fewer, a tenth would judge nothing and be missed in training."""

CHECKPOINTS_PER_JOB = 10
"""At least that many, so a killed job loses a tenth; long jobs save each `MOST_STEPS_BETWEEN` steps."""

MOST_STEPS_BETWEEN = 50

GENERATIONS = 8
"""Replies to each prompt of a reinforcement step at a compute multiplier of 1: the engine's default."""

LONGEST_COMPLETION = 256
"""Tokens of such a reply at most: the engine's default; short rows make it shorter."""


@dataclass(frozen=True)
class JobPlan:
    """The spec that trains the job, its hyperparameters as OpenAI names them, and what the planner warns about."""

    spec: RunSpec
    hyperparameters: dict[str, Any]
    warnings: tuple[str, ...]


def plan_job(
    job: JobRecord,
    rows: Sequence[Conversation],
    *,
    train: Path,
    validation: Path | None,
    model: str,
    shape_of: str,
    reward: Path,
    output: Path,
) -> JobPlan:
    """Plan `job` on `rows`, which are those of the file `train`; `reward` is the module with a grader's function.

    `model` is trained, and need not be there yet; `shape_of` is a model of its shape and tokenizer that is.
    Raises SpecError, DataError or ModelError.
    """
    plan = make_plan(rows, shape_of)
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
    hyperparameters = {
        "n_epochs": training["epochs"],
        "batch_size": training["batch_size"],
        "learning_rate_multiplier": multiplier,
    }
    objective: dict[str, Any] = {"kind": OBJECTIVES[job.method["type"]]}
    if job.method["type"] == "dpo":
        objective["beta"] = hyperparameters["beta"] = _asked(asked, "beta", 0.1)
    if job.method["type"] == "reinforcement":
        compute = hyperparameters["compute_multiplier"] = _asked(asked, "compute_multiplier", 1.0)
        training["eval_every"] = _asked(asked, "eval_interval", None)
        objective |= {
            "reward": f"{reward}:score",
            "num_generations": max(2, round(compute * GENERATIONS)),
            "max_completion_length": min(plan.data.longest, LONGEST_COMPLETION),
        }
    spec = parse_spec(
        values
        | {
            "model": model,
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


def missing_column(rows: Sequence[Conversation], named: Sequence[str]) -> str | None:
    """What is wrong when a grader names a column that no row has; it would grade against nothing."""
    there = dict.fromkeys(("reference", "label", *(name for row in rows for name in row.metadata)))
    missing = next((name for name in named if name not in there), None)
    if missing is None:
        return None
    return f"grader: no row has {{{{item.{missing}}}}}; there are: {', '.join(f'item.{name}' for name in there)}"


def _asked(hyperparameters: dict[str, Any], name: str, planned: Any) -> Any:
    value = hyperparameters.get(name, "auto")
    return planned if value in ("auto", None) else value
