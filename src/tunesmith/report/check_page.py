"""The checklist as a page: each check's status, finding, rows, mend and command, with plots of the numbers behind it.

A check's `facts` say by their form how they are shown: names with numbers are bars, many numbers are a histogram,
single numbers and short texts are a list, and lists of texts (clusters, pairs) are groups of examples. So a new
check needs nothing here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tunesmith import storage
from tunesmith.quality.report import CheckReport, Finding
from tunesmith.report.charts import bar_chart, histogram
from tunesmith.report.pages import figure, render, render_part

MOST_BARS = 12
"""Bars drawn; the rest are summed into one."""

FEWEST_VALUES = 8
"""Numbers in a list from which on they are drawn as a histogram."""


@dataclass(frozen=True)
class Plot:
    """A fact drawn."""

    name: str
    chart: Markup


@dataclass(frozen=True)
class Group:
    """A fact that is texts: each inner tuple is one cluster, pair or example."""

    name: str
    examples: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ShownFinding:
    """A finding with its facts sorted into what is drawn, what is listed and what is shown by example."""

    finding: Finding
    plots: tuple[Plot, ...]
    values: tuple[tuple[str, str], ...]
    groups: tuple[Group, ...]


def write_check_page(report: CheckReport, path: Path) -> None:
    """Write the report as one self-contained HTML file. Raises StorageError when it cannot be written."""
    title = "Checklist: " + ", ".join(Path(file).name for file in report.files)
    storage.write_text(path, render("check.html.j2", title=title, **_values(report)))


def check_part(report: CheckReport) -> Markup:
    """The findings alone, for another page."""
    return render_part("check.html.j2", "main", **_values(report))


def _values(report: CheckReport) -> dict[str, Any]:
    return {
        "report": report,
        "findings": [_show(finding) for finding in report.findings],
        "counts": {status: sum(f.status == status for f in report.findings) for status in ("fail", "warn", "pass")},
    }


def _show(finding: Finding) -> ShownFinding:
    plots, values, groups = [], [], []
    for key, fact in finding.facts.items():
        name = key.replace("_", " ")
        match fact:
            case bool() | None:
                continue
            case int() | float():
                values.append((name, figure(fact)))
            case str():
                values.append((name, fact))
            case Mapping() if len(fact) > 1 and _numbers(fact.values()):
                plots.append(Plot(name, bar_chart(_largest(fact), unit="")))
            case list() | tuple() if len(fact) >= FEWEST_VALUES and _numbers(fact):
                plots.append(Plot(name, histogram(fact, x_label=name)))
            case list() | tuple() if fact and not _numbers(fact):
                groups.append(Group(name, tuple(_texts(item) for item in fact)))
            case _:
                continue
    return ShownFinding(finding, tuple(plots), tuple(values), tuple(groups))


def _numbers(values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _largest(fact: Mapping[Any, float]) -> list[tuple[str, float]]:
    """The facts as bars: in their own order when few, else the largest and the sum of the others."""
    bars = [(str(name) or "(empty)", value) for name, value in fact.items()]
    if len(bars) <= MOST_BARS:
        return bars
    bars.sort(key=lambda bar: bar[1], reverse=True)
    rest = bars[MOST_BARS - 1 :]
    return [*bars[: MOST_BARS - 1], (f"{len(rest)} others", sum(value for _, value in rest))]


def _texts(item: Any) -> tuple[str, ...]:
    if isinstance(item, Mapping):
        return tuple(f"{key.replace('_', ' ')}: {_text(value)}" for key, value in item.items())
    if isinstance(item, Sequence) and not isinstance(item, str):
        return tuple(_text(part) for part in item)
    return (_text(item),)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return figure(value)
    return ", ".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)
