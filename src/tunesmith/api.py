"""The verbs, one function each: the command line, the demo and the report's readers call these and only these.

Every function imports what it needs when it is called, so `import tunesmith` costs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith import storage
from tunesmith.errors import DataError
from tunesmith.run_folder import RunFolder, open_run
from tunesmith.spec import RunSpec, load_spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunesmith.dataset.conversation import Conversation
    from tunesmith.evaluation.result import Evaluation
    from tunesmith.planning.plan import Plan
    from tunesmith.quality.report import CheckReport
    from tunesmith.training.run import RunResult, TrainObserver


def check(
    files: Sequence[str | Path],
    *,
    task: str | None = None,
    model: str | None = None,
    eval_file: str | Path | None = None,
    names: bool = False,
    semantic: str | None = None,
    review_file: str | Path | None = None,
) -> CheckReport:
    """Run the quality checklist over data files; `eval_file` adds the leakage check, `model` the token check.

    `names` looks for names and places too, `semantic` is an embedding model that finds rows saying the same in other
    words, `review_file` receives a random sample of rows for a person to judge.
    Raises DataError when a file cannot be read at all, SpecError for an unknown task, ModelError or
    MissingDependencyError where a model or an extra that was asked for is missing.
    """
    from tunesmith.quality.checklist import check as run_checklist

    return run_checklist(
        files,
        task=task,
        model=model,
        eval_file=eval_file,
        names=names,
        semantic=semantic,
        review_file=review_file,
    )


def row(file: str | Path, number: int) -> Conversation:
    """The `number`-th readable row of a data file, counted from 1. Raises DataError when there are fewer."""
    from itertools import islice

    from tunesmith.dataset.conversation import Conversation
    from tunesmith.dataset.read import read

    readable = (found for found in read(file) if isinstance(found, Conversation))
    chosen = next(islice(readable, number - 1, None), None)
    if chosen is None:
        raise DataError(f"--row {number}: {file} has fewer readable rows; list its mistakes with: tunesmith data check")
    return chosen


def plan(data: str | Path, model: str, *, gpu: str | None = None) -> Plan:
    """Memory per method, cost per provider and hyperparameters for fine-tuning `model` on `data`."""
    from tunesmith.dataset.read import load
    from tunesmith.planning.plan import make_plan

    return make_plan(load(data), model, gpu=gpu)


def train(spec: RunSpec | str | Path, *, resume: bool = False, observer: TrainObserver | None = None) -> RunResult:
    """Train as `spec` (a RunSpec or the path of its YAML) says, and leave the report and model card in the run folder.

    The checklist's report and the plan are made first and kept beside the run.
    Raises SpecError, DataError, ModelError, StorageError or TrainingError, each saying how to mend it.
    """
    from tunesmith.training.run import train as run_training

    if not isinstance(spec, RunSpec):
        spec = load_spec(Path(spec))
    findings = check([spec.data.train])
    expected = plan(spec.data.train, spec.model)
    result = run_training(spec, resume=resume, observer=observer)
    run = RunFolder(Path(spec.output))
    _keep(run.check, findings)
    _keep(run.plan, expected)
    _write_pages(run)
    return result


def evaluate(run: str | Path, *, data: str | Path | None = None) -> Evaluation:
    """Compare the tuned model with its base on held-out rows (or on `data`); rewrites the run's report and card."""
    from tunesmith.evaluation.evaluate import evaluate as run_evaluation

    folder = open_run(run)
    evaluation = run_evaluation(folder, data=None if data is None else str(data))
    _write_pages(folder)
    return evaluation


def export(run: str | Path, *, to: str = "merged", output: str | Path | None = None) -> Path:
    """Merge the run's adapter into its base model and check that the logits agree; returns the model folder."""
    from tunesmith.errors import SpecError
    from tunesmith.exporting.merge import merge

    if to != "merged":
        raise SpecError(f"--to {to}: not a known target; use merged")
    return merge(open_run(run), None if output is None else Path(output))


def eject(run: str | Path) -> str:
    """The run as the text of a plain TRL/PEFT script. Raises RunError or DataError where TRL has no such run."""
    from tunesmith.exporting.eject import eject as write_script

    return write_script(RunFolder(Path(run)))


def report(run: str | Path) -> Path:
    """Write the run's self-contained `report.html` from what its folder holds."""
    from tunesmith.report.html import write_report

    return write_report(RunFolder(Path(run)))


def _write_pages(run: RunFolder) -> None:
    from tunesmith.exporting.card import write_card
    from tunesmith.report.html import write_report

    write_card(run)
    write_report(run)


def _keep(path: Path, value: object) -> None:
    import msgspec

    storage.write_bytes(path, msgspec.json.format(msgspec.json.encode(value), indent=2))
