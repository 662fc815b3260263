"""A sweep as a page: its response (what each setting did to the loss) as plots, and every trial in a table."""

from collections.abc import Callable
from pathlib import Path

from markupsafe import Markup

from tunesmith import storage
from tunesmith.planning.figures import number
from tunesmith.report.charts import Point, scatter_chart
from tunesmith.report.pages import render
from tunesmith.training.sweep import SweepResult, TrialResult

STYLES = {"complete": "base", "pruned": "prompted"}
"""Of the points of trials that came to their end, and of those that were given up; the best is drawn as tuned."""

_SETTINGS: tuple[tuple[str, Callable[[TrialResult], float | None], bool], ...] = (
    ("learning rate", lambda trial: trial.learning_rate, True),
    ("epochs", lambda trial: trial.epochs, False),
    ("rank", lambda trial: trial.rank, False),
)
"""Name, value of a trial, and whether its axis is logarithmic."""


def write_sweep_page(result: SweepResult, path: Path) -> None:
    """Write the sweep as one self-contained HTML file. Raises StorageError when it cannot be written."""
    charts = [(name, chart) for name, value, log in _SETTINGS if (chart := _response(result, name, value, log))]
    trials = sorted(result.trials, key=lambda trial: (trial.loss is None, trial.loss))
    storage.write_text(
        path,
        render(
            "sweep.html.j2",
            title=f"Sweep: {path.parent.name.removesuffix('-sweep')}",
            result=result,
            trials=trials,
            charts=charts,
        ),
    )


def _response(result: SweepResult, name: str, value: Callable[[TrialResult], float | None], log: bool) -> Markup | None:
    """The loss of every trial by one setting, the best on top; None where no two trials differ in it."""
    points = [
        (
            trial == result.best,
            Point(
                float(at),
                trial.loss,
                f"trial {trial.number}: {name} {number(at)}, {result.measure} {trial.loss:.4f}, {trial.status}",
                "tuned" if trial == result.best else STYLES.get(trial.status, "prompted"),
            ),
        )
        for trial in result.trials
        if trial.loss is not None and (at := value(trial)) is not None
    ]
    if len({point.x for _, point in points}) < 2:
        return None
    points.sort(key=lambda item: item[0])
    return scatter_chart([point for _, point in points], x_label=name, y_label=result.measure, logarithmic=log)
