"""The curves of what an objective measures beside its loss: rewards, distance from the reference, length of replies."""

from dataclasses import dataclass
from itertools import accumulate

from markupsafe import Markup

from tunesmith.report.charts import Flag, Series, line_chart
from tunesmith.report.run_data import RunData

MEASURES = {
    "reward": ("Reward", "mean reward of a reply"),
    "kl": ("Distance from the reference", "KL divergence, nats per token"),
    "completions/mean_length": ("Length of replies", "tokens"),
    "sampling/sampling_logp_difference/mean": ("Distance of what draws the replies", "log-probability, nats per token"),
    "answer_loss": ("Loss on the data's own replies", "nats per token"),
    "rewards/margins": ("Margin of the chosen reply", "difference of implicit rewards"),
    "sft_loss": ("Loss on the chosen replies", "nats per token"),
    "rewards/accuracies": ("Chosen reply preferred", "share of pairs"),
    "accuracy": ("Chosen reply scored higher", "share of pairs"),
    "margin": ("Margin of the chosen reply", "difference of scores"),
}
"""Measure → the chart's title and its y axis, in the order in which they are shown."""


SMOOTHED_SHARE = 0.08
"""Of the run's steps: how many the smoothed training loss averages over."""


@dataclass(frozen=True)
class MeasureChart:
    """One measure over the steps of the run."""

    title: str
    chart: Markup


def measure_charts(data: RunData) -> list[MeasureChart]:
    """A chart for each known measure that the run recorded, and for each of several rewards."""
    charts = []
    for name, (title, unit) in (MEASURES | _rewards(data)).items():
        training = [(float(step.step), step.measures[name]) for step in data.steps if name in step.measures]
        held_out = [(float(event.step), event.measures[name]) for event in data.evals if name in event.measures]
        smooth = list(zip([x for x, _ in training], smoothed([y for _, y in training]), strict=True))
        series = [
            Series("Training", "train-raw", training),
            Series("Training, smoothed", "train", smooth),
            Series("Held-out", "validation", held_out, dots=True),
        ]
        shown = [line for line in series if line.points]
        if shown:
            judged = name == "reward"  # what a policy is judged by, and its best step chosen
            kept = data.end.best_step if judged and held_out and data.end else None
            chart = line_chart(
                shown,
                x_label="step",
                y_label=unit,
                marker=None if kept is None else (float(kept), "kept"),
                flags=flags(data) if judged else [],
            )
            charts.append(MeasureChart(title, chart))
    return charts


def _rewards(data: RunData) -> dict[str, tuple[str, str]]:
    """Of several rewards, each one's own measure."""
    recorded = {name: None for step in data.steps for name in step.measures}
    parts = [name for name in recorded if name.startswith("rewards/") and name.endswith("/mean")]
    return {name: (f"Reward: {name[len('rewards/') : -len('/mean')]}", "mean reward of a reply") for name in parts}


def flags(data: RunData) -> list[Flag]:
    """The run's verdicts, where they were reached."""
    return [Flag(float(verdict.step), verdict.finding, verdict.status) for verdict in data.verdicts]


def smoothed(values: list[float]) -> list[float]:
    """The centred moving mean of `values`: unlike an exponential one it does not lag behind a falling loss."""
    half = round(len(values) * SMOOTHED_SHARE / 2)
    sums = [0.0, *accumulate(values)]
    smooth = []
    for index in range(len(values)):
        reach = min(half, index, len(values) - 1 - index)
        smooth.append((sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1))
    return smooth
