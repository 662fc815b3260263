"""The plan as a page, and its break-even as a chart: dollars by number of calls, one line a way to answer them."""

from pathlib import Path

from markupsafe import Markup

from tunesmith import storage
from tunesmith.planning.plan import Plan
from tunesmith.planning.volume import Volume
from tunesmith.report.charts import Series, line_chart
from tunesmith.report.pages import render

STYLES = ("tuned", "base", "prompted")
"""Of the tuned model, the untuned one with a longer prompt, and the larger model."""

FEWEST_CALLS = 1_000
"""Half of what the chart reaches where tuning never pays."""


def write_plan_page(plan: Plan, path: Path) -> None:
    """Write the plan as one self-contained HTML file. Raises StorageError when it cannot be written."""
    from tunesmith.report.html import plan_part

    storage.write_text(path, render("plan.html.j2", title=f"Plan: {plan.model.name}", part=plan_part(plan)))


def break_even_chart(volume: Volume) -> Markup:
    """Dollars in all by number of calls, up to twice the last break-even."""
    found = [way.break_even_calls for way in volume.others if way.break_even_calls]
    until = 2 * max(found, default=FEWEST_CALLS)
    unit, name = (1_000, "thousand calls") if until >= 10_000 else (1, "calls")
    series = [
        Series(way.name, style, [(calls / unit, volume.cost(way, calls)) for calls in (0, until)])
        for way, style in zip((volume.tuned, *volume.others), STYLES, strict=False)
    ]
    marker = (max(found) / unit, "tuning pays") if found else None
    return line_chart(series, x_label=name, y_label="US dollars in all", marker=marker)
