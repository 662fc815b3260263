"""What the report says of the advice: the ways of asking that need no training, measured, and why to train or not."""

from dataclasses import dataclass

from markupsafe import Markup

from tunesmith.advice.result import Advice
from tunesmith.report.charts import Range, range_chart


@dataclass(frozen=True)
class ShownAdvice:
    """The advice with its baselines drawn; `chart` is None where nothing was measured."""

    advice: Advice
    chart: Markup | None


def show_advice(advice: Advice) -> ShownAdvice:
    """The advice, ready for the page."""
    ranges = [
        Range(
            baseline.name,
            "tuned" if baseline.name == advice.best else "base",
            baseline.score.value,
            baseline.score.low,
            baseline.score.high,
        )
        for baseline in advice.baselines
    ]
    target = (advice.target, f"target {advice.target:.0%}")
    return ShownAdvice(advice, range_chart(ranges, x_label=advice.metric, marker=target) if ranges else None)
