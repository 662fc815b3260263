"""The run's report: one HTML file that holds all its evidence, needs no network and no script.

The result comes first, then what it rests on, then how to make it again. A part that the run folder does not hold
(no evaluation yet, no plan) is left out, so the report can be written at any moment of a run.
"""

import math
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tunesmith import storage
from tunesmith.evaluation.result import Change, Evaluation, MetricComparison
from tunesmith.planning.memory import Memory
from tunesmith.planning.plan import MethodPlan, Plan
from tunesmith.planning.typical import range_warnings
from tunesmith.report.advice import show_advice
from tunesmith.report.charts import Range, Series, interval_chart, line_chart, stacked_bar
from tunesmith.report.comparison import matrices, row_outcomes, standing_verdicts
from tunesmith.report.measures import MeasureChart, flags, measure_charts, smoothed
from tunesmith.report.pages import render, render_part
from tunesmith.report.plan_page import BreakEven, break_even_charts
from tunesmith.report.run_data import RunData, read_run
from tunesmith.report.samples import outcomes
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec, dump_spec

LOSS_UNITS = {"sft": "loss (nats per token)"}
"""An objective's loss on its chart's axis, where it has a unit."""

PACKAGES = ("tunesmith", "torch", "transformers", "peft", "tokenizers", "safetensors")


@dataclass(frozen=True)
class ShownMetric:
    """A metric with its intervals drawn; `change` is what its difference means."""

    metric: MetricComparison
    chart: Markup
    change: Change


@dataclass(frozen=True)
class ShownMethod:
    """A method of the plan with its memory drawn against the largest of them."""

    plan: MethodPlan
    chart: Markup


def write_report(run: RunFolder) -> Path:
    """Write `report.html` from what the run folder holds, and return its path.

    Raises RunError when the folder is no run or holds a broken file, StorageError when it cannot be written.
    """
    storage.write_text(run.report, render("run.html.j2", **_values(read_run(run))))
    return run.report


def run_part(run: RunFolder) -> Markup:
    """The report's sections alone, for another page. Raises RunError when the folder is no run."""
    return render_part("run.html.j2", "main", **_values(read_run(run)))


def plan_part(plan: Plan) -> Markup:
    """The section about a plan, for another page."""
    return render_part("run.html.j2", "plan", plan=plan, methods=_methods(plan), used={}, break_even=_break_even(plan))


def _values(data: RunData) -> dict[str, Any]:
    evaluation = data.evaluation
    return {
        "title": data.folder.root.resolve().name,
        "run": data,
        "metrics": [_metric(evaluation, metric) for metric in evaluation.metrics] if evaluation else [],
        "row_outcomes": row_outcomes(evaluation.samples) if evaluation else [],
        "matrices": matrices(evaluation.confusion) if evaluation else [],
        "verdicts": standing_verdicts(evaluation, data.folder) if evaluation else [],
        "curves": _curves(data),
        "measures": measure_charts(data),
        "rewarded": any("reward" in step.measures for step in data.steps),
        "reward_model": _reward_model(data),
        "learned": data.verdicts or (() if evaluation else data.sound),
        "outcomes": outcomes(evaluation.samples) if evaluation else [],
        "shown_advice": show_advice(data.advice) if data.advice else None,
        "plan": data.plan,
        "methods": _methods(data.plan) if data.plan else [],
        "break_even": _break_even(data.plan),
        "used": _used(data.spec),
        "spec": dump_spec(data.spec),
        "warnings": _warnings(data),
        "contents": _contents(data),
        "versions": _versions(),
    }


def _metric(evaluation: Evaluation, metric: MetricComparison) -> ShownMetric:
    ranges = [
        Range(name, style, estimate.value, estimate.low, estimate.high)
        for name, style, estimate in (
            ("Base", "base", metric.base),
            ("Prompted base", "prompted", metric.prompted),
            ("Tuned", "tuned", metric.tuned),
        )
        if estimate is not None
    ]
    return ShownMetric(metric, interval_chart(ranges), evaluation.change(metric))


def _curves(data: RunData) -> Markup | None:
    losses = [(float(step.step), step.loss) for step in data.steps if math.isfinite(step.loss)]
    # An online objective's validation is its negated reward, which has a chart of its own.
    evals = [event for event in data.evals if "reward" not in event.measures]
    validation = [(float(event.step), event.loss) for event in evals if math.isfinite(event.loss)]
    if len({step for step, _ in [*losses, *validation]}) < 2:
        return None
    smooth = list(zip([x for x, _ in losses], smoothed([y for _, y in losses]), strict=True))
    series = [
        Series("Training loss", "train-raw", losses),
        Series("Training loss, smoothed", "train", smooth),
        Series("Validation loss", "validation", validation, dots=True),
    ]
    best = data.end.best_step if data.end else None
    return line_chart(
        [line for line in series if line.points],
        x_label="step",
        y_label=LOSS_UNITS.get(data.spec.objective.kind, "loss"),
        marker=None if best is None or not validation else (float(best), "kept"),
        flags=flags(data) if len(evals) == len(data.evals) else [],
    )


def _reward_model(data: RunData) -> list[MeasureChart]:
    """How an rlhf run's reward model learned."""
    if data.reward_model is None:
        return []
    loss = _curves(data.reward_model)
    return [*([MeasureChart("Loss", loss)] if loss else []), *measure_charts(data.reward_model)]


def _methods(plan: Plan) -> list[ShownMethod]:
    largest = max(method.peak_bytes for method in plan.methods)
    return [
        ShownMethod(
            method,
            stacked_bar(
                [
                    ("weights", "part-1", method.memory.weights),
                    ("gradients and optimizer", "part-2", method.memory.gradients + method.memory.optimizer),
                    *_momentary(method.memory),
                ],
                largest,
            ),
        )
        for method in plan.methods
    ]


def _momentary(memory: Memory) -> list[tuple[str, str, int]]:
    """What comes and goes, at the step's fullest moment."""
    in_passes = memory.activations + max(memory.logits, memory.temporary)
    if memory.update > in_passes:  # sampling replies, or the gradient of the embedding
        return [("temporary", "part-4", memory.update)]
    return [("activations", "part-3", memory.activations), ("temporary", "part-4", in_passes - memory.activations)]


def _break_even(plan: Plan | None) -> list[BreakEven]:
    return break_even_charts(plan.volume) if plan and plan.volume else []


def _used(spec: RunSpec) -> dict[str, float | str]:
    """The run's own value for each key that a plan suggests one for."""
    used = {f"training.{key}": value for key, value in spec.training.model_dump().items()}
    used["training.epochs"] = spec.training.planned_epochs if spec.training.steps is None else "by steps"
    used |= {f"adapter.{key}": value for key, value in spec.adapter.model_dump().items()}
    return used


def _warnings(data: RunData) -> list[str]:
    warnings = list(range_warnings(data.spec))
    warnings += list(data.plan.warnings) if data.plan else []
    if data.start is not None and data.start.truncated_rows:
        warnings.append(
            f"{data.start.truncated_rows:,} rows were truncated, losing {data.start.supervised_tokens_lost:.1%} of the "
            "supervised tokens; raise training.max_length"
        )
    if data.end is not None and data.end.reason == "interrupted":
        warnings.append(
            f"training was interrupted at step {data.end.step}; go on with: tunesmith train {data.folder.spec} --resume"
        )
    return warnings


def _contents(data: RunData) -> list[tuple[str, str]]:
    """The sections that the report will have, by their anchors."""
    sections = (
        ("help", "Did it help?", data.evaluation),
        ("curves", "How it learned", data.steps or data.evals),
        ("reward-model", "Its reward model", data.reward_model and data.reward_model.steps),
        ("samples", "What they say", data.evaluation and data.evaluation.samples),
        ("advice", "Should it be fine-tuned?", data.advice),
        ("data", "The data", data.check),
        ("plan", "The plan", data.plan),
    )
    found = [(anchor, name) for anchor, name, there in sections if there]
    return [*found, ("again", "Make it again")] if found else []


def _versions() -> list[tuple[str, str]]:
    found = [("python", platform.python_version()), ("system", f"{platform.system()} {platform.machine()}")]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return found
