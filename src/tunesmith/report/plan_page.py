"""The plan as a page, and its break-even as charts: dollars by number of calls, tuned against each other way."""

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from tunesmith import storage
from tunesmith.planning.plan import Plan
from tunesmith.planning.volume import Volume, Way
from tunesmith.report.charts import Series, line_chart
from tunesmith.report.pages import render

SHOWN_CALLS = 1_000
"""What a chart reaches where tuning pays at once or never; else twice the number from which on it pays."""


@dataclass(frozen=True)
class BreakEven:
    """The tuned model against one other way to answer: what both cost, by number of calls."""

    way: Way
    chart: Markup


def write_plan_page(plan: Plan, path: Path) -> None:
    """Write the plan as one self-contained HTML file. Raises StorageError when it cannot be written."""
    from tunesmith.report.html import plan_part

    name, part = plan.model.name, plan_part(plan)
    page = render("plan.html.j2", title=f"Plan: {name}", model=name, part=part, warnings=plan.warnings)
    storage.write_text(path, page)


def break_even_charts(volume: Volume) -> list[BreakEven]:
    """A chart for each other way: on a common one, the dearest would press all others onto the axis."""
    return [BreakEven(way, _break_even_chart(volume, way)) for way in volume.others]


def _break_even_chart(volume: Volume, way: Way) -> Markup:
    until = 2 * way.break_even_calls if way.break_even_calls else SHOWN_CALLS
    unit, name = (1_000, "thousand calls") if until >= 10_000 else (1, "calls")
    series = [
        Series(each.name, style, [(calls / unit, volume.cost(each, calls)) for calls in (0, until)])
        for each, style in ((volume.tuned, "tuned"), (way, "base"))
    ]
    marker = (way.break_even_calls / unit, "tuning pays") if way.break_even_calls else None
    return line_chart(series, x_label=name, y_label="US dollars in all", marker=marker)
