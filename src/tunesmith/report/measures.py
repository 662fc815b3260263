"""The curves of what an objective measures beside its loss: rewards, distance from the reference, length of replies."""

from dataclasses import dataclass

from markupsafe import Markup

from tunesmith.report.charts import Series, line_chart
from tunesmith.report.run_data import RunData

MEASURES = {
    "reward": ("Reward", "mean reward of a reply"),
    "kl": ("Distance from the reference", "KL divergence, nats per token"),
    "completions/mean_length": ("Length of replies", "tokens"),
    "answer_loss": ("Loss on the data's own replies", "nats per token"),
    "rewards/margins": ("Margin of the chosen reply", "difference of implicit rewards"),
    "rewards/accuracies": ("Chosen reply preferred", "share of pairs"),
    "accuracy": ("Chosen reply scored higher", "share of pairs"),
    "margin": ("Margin of the chosen reply", "difference of scores"),
}
"""Measure → the chart's title and its y axis, in the order in which they are shown."""


@dataclass(frozen=True)
class MeasureChart:
    """One measure over the steps of the run."""

    title: str
    chart: Markup


def measure_charts(data: RunData) -> list[MeasureChart]:
    """A chart for each known measure that the run recorded."""
    charts = []
    for name, (title, unit) in MEASURES.items():
        training = [(float(step.step), step.measures[name]) for step in data.steps if name in step.measures]
        held_out = [(float(event.step), event.measures[name]) for event in data.evals if name in event.measures]
        series = [Series("Training", "train", training), Series("Held-out", "validation", held_out, dots=True)]
        shown = [line for line in series if line.points]
        if shown:
            charts.append(MeasureChart(title, line_chart(shown, x_label="step", y_label=unit)))
    return charts
