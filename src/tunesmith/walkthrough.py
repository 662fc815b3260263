"""The whole workflow on the embedded model and the ticket sample: check, advise, plan, train, evaluate, merge, report.

It calls the same verbs as everybody else, on a file and a model folder like everybody's; nothing in it is special.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith import api, storage
from tunesmith.assets import sample
from tunesmith.errors import SpecError
from tunesmith.planning.plan import plan_to_spec
from tunesmith.run_folder import RunFolder

if TYPE_CHECKING:
    from tunesmith.advice.result import Advice
    from tunesmith.evaluation.result import Evaluation
    from tunesmith.planning.plan import Plan
    from tunesmith.quality.report import CheckReport
    from tunesmith.training.run import RunResult, TrainObserver

DEFAULT_OUTPUT = Path("runs/demo")

ADVICE_ROWS = 60
"""Held-out rows that the baselines are measured on: enough for the intervals to part, and a quarter of a minute."""

Show = Callable[[str, object], None]


@dataclass(frozen=True)
class DemoResult:
    """What each stage gave, and where the report is."""

    output: Path
    check: "CheckReport"
    advice: "Advice"
    plan: "Plan"
    run: "RunResult"
    evaluation: "Evaluation"
    merged: Path
    report: Path
    seconds: float


def demo(
    output: str | Path | None = None,
    *,
    show: Show = lambda stage, result: None,
    observer: "TrainObserver | None" = None,
) -> DemoResult:
    """Run every stage on the ticket sample; the run folder is `output`, or `runs/demo` (`runs/demo-2`, …).

    `show` is told each stage's result as it comes, and the spec just before training starts; `observer` is
    training's own. Raises SpecError when `output` already holds a run.
    """
    started = time.monotonic()
    run = RunFolder(_free_folder(DEFAULT_OUTPUT) if output is None else Path(output))
    if run.spec.exists():
        raise SpecError(f"--output {run.root}: already holds a run; give another folder, or remove it")
    data = run.root / "tickets.jsonl"
    storage.write_bytes(data, sample("tickets").read_bytes())
    general = run.root / "general.jsonl"
    storage.write_bytes(general, sample("general").read_bytes())

    check = api.check([data])
    show("check", check)
    advice = api.advise(data, "embedded", rows=ADVICE_ROWS, write=run.advice)
    show("advise", advice)
    plan = api.plan(data, "embedded")
    show("plan", plan)
    spec = plan_to_spec(plan, str(data), output=str(run.root))
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"replay": str(general)})})
    show("spec", spec)
    result = api.train(spec, observer=observer)
    show("train", result)
    evaluation = api.evaluate(run.root)
    show("evaluate", evaluation)
    merged = api.export(run.root, to="merged")
    show("merge", merged)
    report = api.report(run.root)
    show("report", report)
    return DemoResult(run.root, check, advice, plan, result, evaluation, merged, report, time.monotonic() - started)


def _free_folder(wanted: Path) -> Path:
    folder, number = wanted, 2
    while folder.exists():
        folder = wanted.with_name(f"{wanted.name}-{number}")
        number += 1
    return folder
