"""What the evaluation's section of the report shows beside its table: rows won and lost, and classes confused."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tunesmith.evaluation.result import Confusion, Evaluation, Sample, Verdict
from tunesmith.report.charts import difference_chart, stacked_bar
from tunesmith.run_folder import RunFolder

HEAT_LEVELS = 5
"""Shades of the confusion matrix, by the share of the row's class."""

LARGEST_MATRIX = 12
"""More classes than this make a matrix that nobody reads."""


@dataclass(frozen=True)
class RowOutcomes:
    """How many rows the tuned model does better, as well and worse on than `rival`, drawn.

    Scores that are only right or wrong are one bar of three parts, others a column a row.
    """

    rival: str
    better: int
    same: int
    worse: int
    chart: Markup


@dataclass(frozen=True)
class Cell:
    """A count of the confusion matrix and its shade, 0 to `HEAT_LEVELS`; `right` on the diagonal."""

    count: int
    heat: int
    right: bool


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix to be shown: a row a class, the last column for replies that name none."""

    name: str
    classes: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def row_outcomes(samples: Sequence[Sample]) -> list[RowOutcomes]:
    """The headline metric's paired differences with each rival; none where the replies score the same everywhere."""
    base = [sample.tuned_score - sample.base_score for sample in samples]
    prompted = [s.tuned_score - s.prompted_score for s in samples if s.prompted_score is not None]
    return [
        _row_outcomes(rival, differences)
        for rival, differences in (("base", base), ("prompted base", prompted))
        if any(differences)
    ]


def matrices(confusion: Confusion | None) -> list[Matrix]:
    """The confusion matrices of tuned and base, where the classes are few enough to be read."""
    if confusion is None or len(confusion.classes) > LARGEST_MATRIX:
        return []
    return [_matrix("tuned", confusion.classes, confusion.tuned), _matrix("base", confusion.classes, confusion.base)]


def standing_verdicts(evaluation: Evaluation, run: RunFolder) -> list[Verdict]:
    """The evaluation's verdicts, without that on an adapter which was merged since."""
    return [verdict for verdict in evaluation.verdicts if verdict.name != "adapter" or not run.merged.is_dir()]


def _row_outcomes(rival: str, differences: Sequence[float]) -> RowOutcomes:
    better, same, worse = (
        sum(value > 0 for value in differences),
        sum(value == 0 for value in differences),
        sum(value < 0 for value in differences),
    )
    if {abs(value) for value in differences} <= {0.0, 1.0}:
        parts = [("better", "gain", better), ("the same", "same", same), ("worse", "loss", worse)]
        chart = stacked_bar(parts, len(differences))
    else:
        chart = difference_chart(differences, y_label=f"score, tuned minus {rival}, a column a row")
    return RowOutcomes(rival, better, same, worse, chart)


def _matrix(name: str, classes: tuple[str, ...], counts: Sequence[Sequence[int]]) -> Matrix:
    return Matrix(
        name,
        classes,
        tuple(
            tuple(
                Cell(count, -(-HEAT_LEVELS * count // max(1, sum(row))), place == index)
                for place, count in enumerate(row)
            )
            for index, row in enumerate(counts)
        ),
    )
