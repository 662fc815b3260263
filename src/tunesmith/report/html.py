"""The run's report: one HTML file that holds all its evidence, needs no network and no script.

The result comes first, then what it rests on, then how to make it again. A part that the run folder does not hold
(no evaluation yet, no plan) is left out, so the report can be written at any moment of a run.
"""

import difflib
import math
import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from tunesmith import storage
from tunesmith.evaluation.result import MetricComparison, Sample
from tunesmith.planning.plan import MethodPlan, Plan
from tunesmith.report.advice import show_advice
from tunesmith.report.charts import Flag, Range, Series, interval_chart, line_chart, stacked_bar
from tunesmith.report.comparison import matrices, row_outcomes, standing_verdicts
from tunesmith.report.measures import measure_charts
from tunesmith.report.pages import render, render_part
from tunesmith.report.plan_page import break_even_chart
from tunesmith.report.run_data import RunData, read_run
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec, dump_spec, range_warnings

SHOWN_SAMPLES = 6
"""Samples laid open; the rest are one click away."""

SMOOTHED_SHARE = 0.08
"""Of the run's steps: how many the smoothed training loss averages over."""

LOSS_UNITS = {"sft": "loss (nats per token)"}
"""An objective's loss on its chart's axis, where it has a unit."""

PACKAGES = ("tunesmith", "torch", "transformers", "peft", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Piece:
    """A stretch of a reply; `differs` says that the reference does not have it there."""

    text: str
    differs: bool


@dataclass(frozen=True)
class ShownSample:
    """A sample with its replies cut into pieces, and whether each is the reference, but for outer whitespace."""

    sample: Sample
    base: tuple[Piece, ...]
    tuned: tuple[Piece, ...]
    base_matches: bool
    tuned_matches: bool


@dataclass(frozen=True)
class ShownMetric:
    """A metric with its intervals drawn; `change` is good, bad or none, by direction and significance."""

    metric: MetricComparison
    chart: Markup
    change: str


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
    samples = _samples(data.evaluation.samples) if data.evaluation else []
    return {
        "title": data.folder.root.resolve().name,
        "run": data,
        "metrics": [_metric(metric) for metric in data.evaluation.metrics] if data.evaluation else [],
        "outcomes": row_outcomes(data.evaluation.samples) if data.evaluation else [],
        "matrices": matrices(data.evaluation.confusion) if data.evaluation else [],
        "verdicts": standing_verdicts(data.evaluation, data.folder) if data.evaluation else [],
        "curves": _curves(data),
        "measures": measure_charts(data),
        "samples": samples[:SHOWN_SAMPLES],
        "more_samples": samples[SHOWN_SAMPLES:],
        "shown_advice": show_advice(data.advice) if data.advice else None,
        "plan": data.plan,
        "methods": _methods(data.plan) if data.plan else [],
        "break_even": _break_even(data.plan),
        "used": _used(data.spec),
        "spec": dump_spec(data.spec),
        "warnings": _warnings(data),
        "versions": _versions(),
    }


def difference(reply: str, reference: str) -> tuple[Piece, ...]:
    """`reply` cut into what it shares with `reference`, word by word, and what it does not."""
    words, wanted = re.findall(r"\s+|\w+|[^\w\s]", reply), re.findall(r"\s+|\w+|[^\w\s]", reference)
    pieces = []
    for kind, start, end, _, _ in difflib.SequenceMatcher(None, words, wanted, autojunk=False).get_opcodes():
        if start < end:
            pieces.append(Piece("".join(words[start:end]), kind != "equal"))
    return tuple(pieces)


def smoothed(values: list[float]) -> list[float]:
    """The centred moving mean of `values`: unlike an exponential one it does not lag behind a falling loss."""
    half = round(len(values) * SMOOTHED_SHARE / 2)
    smooth = []
    for index in range(len(values)):
        reach = min(half, index, len(values) - 1 - index)
        smooth.append(fmean(values[index - reach : index + reach + 1]))
    return smooth


def _metric(metric: MetricComparison) -> ShownMetric:
    ranges = [
        Range(name, style, estimate.value, estimate.low, estimate.high)
        for name, style, estimate in (
            ("Base", "base", metric.base),
            ("Prompted base", "prompted", metric.prompted),
            ("Tuned", "tuned", metric.tuned),
        )
        if estimate is not None
    ]
    improved = (metric.difference.value > 0) == (metric.better == "higher")
    change = ("good" if improved else "bad") if metric.significant else "none"
    return ShownMetric(metric, interval_chart(ranges), change)


def _curves(data: RunData) -> Markup | None:
    losses = [(float(step.step), step.loss) for step in data.steps if math.isfinite(step.loss)]
    # An online objective's validation is its negated reward, which has a chart of its own.
    evals = [event for event in data.evals if "reward" not in event.measures]
    validation = [(float(event.step), event.loss) for event in evals if math.isfinite(event.loss)]
    if not losses and not validation:
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
        flags=[Flag(float(verdict.step), verdict.finding, verdict.status) for verdict in data.verdicts],
    )


def _samples(samples: tuple[Sample, ...]) -> list[ShownSample]:
    """Rows on which one model is right and the other wrong come first: they show the difference, either way."""
    shown = [
        ShownSample(
            sample=sample,
            base=difference(sample.base, sample.reference),
            tuned=difference(sample.tuned, sample.reference),
            base_matches=sample.base.strip() == sample.reference.strip(),
            tuned_matches=sample.tuned.strip() == sample.reference.strip(),
        )
        for sample in samples
    ]
    return sorted(shown, key=lambda item: item.base_matches == item.tuned_matches)


def _methods(plan: Plan) -> list[ShownMethod]:
    largest = max(method.peak_bytes for method in plan.methods)
    return [
        ShownMethod(
            method,
            stacked_bar(
                [
                    ("weights", method.memory.weights),
                    ("gradients and optimizer", method.memory.gradients + method.memory.optimizer),
                    ("activations", method.memory.activations),
                    ("logits or temporary", max(method.memory.logits, method.memory.temporary)),
                ],
                largest,
            ),
        )
        for method in plan.methods
    ]


def _break_even(plan: Plan | None) -> Markup | None:
    return break_even_chart(plan.volume) if plan and plan.volume else None


def _used(spec: RunSpec) -> dict[str, float | str]:
    """The run's own value for each key that a plan suggests one for."""
    used = {f"training.{key}": value for key, value in spec.training.model_dump().items()}
    used["training.epochs"] = spec.training.planned_epochs if spec.training.steps is None else "by steps"
    used |= {f"adapter.{key}": value for key, value in spec.adapter.model_dump().items()}
    return used


def _warnings(data: RunData) -> list[str]:
    warnings = range_warnings(data.spec)
    warnings += list(data.plan.warnings) if data.plan else []
    if data.start is not None and data.start.truncated_rows:
        warnings.append(
            f"{data.start.truncated_rows:,} rows were truncated, losing {data.start.supervised_tokens_lost:.1%} of the "
            "supervised tokens; raise training.max_length"
        )
    if data.end is not None and data.end.reason == "interrupted":
        warnings.append(f"training was interrupted at step {data.end.step}; resume it with --resume")
    return warnings


def _versions() -> list[tuple[str, str]]:
    found = [("python", platform.python_version()), ("system", f"{platform.system()} {platform.machine()}")]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return found
