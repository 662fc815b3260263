"""What the numbers mean, in words: did it help, did it overfit, did it forget; each with its evidence and its mend.

The signs are the field's usual ones; the thresholds that turn a sign into a verdict are named here and in
`training/signals.py`, which reads the curves. They are set wide enough that the noise of a few dozen rows raises no
alarm, at the price of noticing late. `good` is said where something was looked for and not found.
"""

from collections.abc import Sequence

import msgspec

from tunesmith.evaluation.evidence import AdapterState, Evidence, Leak, Memory
from tunesmith.evaluation.result import Estimate, MetricComparison, Status, Verdict
from tunesmith.evaluation.statistics import wilson
from tunesmith.quality.report import CheckReport, Finding
from tunesmith.training.events import Event, VerdictEvent
from tunesmith.training.signals import LEARNED_BY_HEART, judge_events

FEW_ROWS = 20
"""Fewer rows prove nothing: bootstrap intervals of a handful are far too narrow (Hesterberg 2015, "What Teachers Should
Know About the Bootstrap", The American Statistician 69:371)."""

ALREADY_GOOD = 0.95
"""A base model that scores this share of the best possible needs no fine-tuning."""

FORGOTTEN = 0.10
"""Loss on general text this far above the base's, as a share of it, is forgetting, and twice as far is catastrophic."""

SURE_P = 0.05
"""Of the p-values, which are read beside the intervals only where there are several general tasks."""

DRIFTED = 0.5
"""Nats per token from base to tuned on what the base says itself; twice as far is catastrophic."""

VERBATIM = 0.9
"""Share of the training outputs reproduced exactly that is learned by heart, if the held-out ones are not."""

GAP = 0.25
"""How much rarer the held-out outputs must be reproduced for that."""

LEAKED = 0.01
"""Above this share of leaked rows an evaluation is not worth reading."""


def judge(evidence: Evidence) -> tuple[Verdict, ...]:
    """Every verdict that the evidence allows, whether it helped first."""
    found: list[Verdict | None] = [
        judge_help(evidence.headline, evidence.loss),
        *judge_training(evidence.events),
        None if evidence.memory is None else judge_memory(evidence.memory),
        None if evidence.retention is None else judge_retention(evidence.retention),
        None if not evidence.tasks else judge_tasks(evidence.tasks),
        None if evidence.drift is None else judge_drift(evidence.drift, evidence.retention),
        None if evidence.leak is None else judge_leak(evidence.leak),
        *([] if evidence.check is None else judge_data(evidence.check)),
        None if evidence.adapter is None else judge_adapter(evidence.adapter),
    ]
    return _without_repeats([verdict for verdict in found if verdict is not None])


def judge_help(headline: MetricComparison, loss: MetricComparison | None) -> Verdict:
    """Whether fine-tuning helped, by the headline metric first and the loss second; and whether it was needed.

    A hosted model tells no loss.
    """
    before, after = _shown(headline, headline.base.value), _shown(headline, headline.tuned.value)
    evidence = f"{headline.name} {_interval(headline)} on {headline.rows} rows"
    if loss is not None:
        evidence += f"; loss {_interval(loss)}"
    if headline.over_prompted is not None:
        evidence += f"; over the prompted base {_change(headline, headline.over_prompted)}"

    def verdict(status: Status, finding: str, mend: str, name: str = "did it help", signal: str = "") -> Verdict:
        return Verdict(name, status, finding, evidence, mend, signal)

    if headline.rows < FEW_ROWS:
        return verdict(
            "warn",
            f"Too few rows to say: {headline.name} {before} before, {after} now, on {headline.rows} rows.",
            f"Evaluate on {FEW_ROWS} or more rows that it has not seen, better 100 (--data FILE, or data.holdout).",
            signal="no evaluation set worth the name",
        )
    if headline.significant and not headline.improves(headline.difference):
        return verdict(
            "bad",
            f"Fine-tuning hurt: {headline.name} went from {before} to {after}.",
            "Keep the base model; check the data (tunesmith data check), then lower the learning rate or the epochs.",
        )
    if headline.top is not None and headline.base.value >= ALREADY_GOOD * headline.top:
        return verdict(
            "warn",
            f"The base model was already good enough: its {headline.name} is {before}, the tuned model's {after}.",
            "Use the base model with a prompt; fine-tune only for what it gets wrong.",
            "base already good enough",
            "the base model's abilities were ignored",
        )
    if headline.prompted is not None and headline.over_prompted is not None:
        prompted = _shown(headline, headline.prompted.value)
        if not _sure(headline.over_prompted) or not headline.improves(headline.over_prompted):
            better = headline.improves(headline.over_prompted)
            said = "It is not surely better than a prompt" if better else "A prompt does as well"
            return verdict(
                "warn",
                f"{said}: the prompted base's {headline.name} is {prompted}, the tuned model's {after}.",
                "Stop at prompting, unless the shorter prompt or a smaller model pays for the upkeep (tunesmith plan).",
                "a prompt would do",
                "the base model's abilities were ignored",
            )
    if headline.significant:
        return verdict("good", f"Fine-tuning helped: {headline.name} went from {before} to {after}.", "")
    smallest = f"What {headline.rows} rows can show is not known"
    if headline.detectable is not None:
        smallest = f"{headline.rows} rows cannot show a difference under {_points(headline, headline.detectable)}"
    if loss is not None and loss.significant and loss.improves(loss.difference):
        return verdict(
            "warn",
            f"The tuned model's loss is lower, but its {headline.name} shows no difference ({before}, now {after}).",
            f"{smallest}: hold out more rows, or train longer.",
        )
    return verdict(
        "warn",
        f"No difference that these rows can show: {headline.name} {before} before, {after} now.",
        f"{smallest}: hold out more rows, or train longer on more data.",
    )


def judge_training(events: Sequence[Event]) -> list[Verdict]:
    """What the run's curves show, by the reading that also watches it while it trains."""
    return [_from_event(event) for event in judge_events(events)]


def judge_memory(memory: Memory) -> Verdict:
    """Whether the training rows were learned by heart instead of what they have in common."""
    length = "1 word" if round(memory.words) == 1 else f"{memory.words:.0f} words"
    evidence = (
        f"{memory.verbatim:.0%} of {memory.rows} training outputs ({length} on average) reproduced "
        f"word for word, {memory.verbatim_base:.0%} by the base, and {memory.held_out:.0%} of the held-out ones; loss "
        f"{memory.training_loss:.3f} on training rows, {memory.held_out_loss:.3f} on held-out rows"
    )
    surely = wilson(round(memory.verbatim * memory.rows), memory.rows).low
    apart = surely - memory.held_out > GAP
    by_heart = memory.training_loss < LEARNED_BY_HEART and memory.held_out_loss > 4 * LEARNED_BY_HEART
    if memory.verbatim < VERBATIM or not (apart or (by_heart and memory.held_out < memory.verbatim - GAP)):
        return Verdict("memorized", "good", "The training rows are not recited.", evidence, "")
    return Verdict(
        "memorized",
        "bad",
        "Memorized: it recites its training rows and does not do as well on others.",
        evidence,
        "Add data, or regularize: fewer epochs, a lower adapter.r, adapter.dropout: 0.05, more training.weight_decay.",
        "perfect accuracy on the training rows",
    )


def judge_retention(loss: MetricComparison) -> Verdict:
    """Whether the tuned model forgot: its loss on general text it was not tuned for, against its base's."""
    rise = loss.difference.value / loss.base.value
    evidence = f"{loss.name} {_interval(loss)} on {loss.rows} general rows"
    if loss.difference.low <= 0 or rise < FORGOTTEN:
        return Verdict("forgetting", "good", "No sign of forgetting on general text.", evidence, "")
    status: Status = "bad" if rise >= 2 * FORGOTTEN else "warn"
    return _forgot(
        status, f"The tuned model forgot: its loss on general text is {rise:.0%} higher than the base's.", evidence
    )


def judge_tasks(tasks: Sequence[MetricComparison]) -> Verdict:
    """Whether the tuned model is surely worse than its base on a general task; each further task is a further chance.

    So with several tasks the p-value has to be smaller by as much (Bonferroni's correction).
    """
    told = "; ".join(f"{task.name} {_interval(task)}" for task in tasks)
    worse = [
        task
        for task in tasks
        if task.significant and not task.improves(task.difference) and (task.p or 0.0) * len(tasks) < SURE_P
    ]
    if not worse:
        return Verdict("forgetting", "good", "On general tasks it is not shown to be worse than its base.", told, "")
    worst = max(worse, key=lambda task: abs(task.difference.value))
    grave = worst.top == 1.0 and abs(worst.difference.value) >= FORGOTTEN
    finding = (
        f"The tuned model is worse on {len(worse)} of {len(tasks)} general tasks: {worst.name} went from "
        f"{_shown(worst, worst.base.value)} to {_shown(worst, worst.tuned.value)}."
    )
    return _forgot("bad" if grave else "warn", finding, told)


def judge_drift(drift: MetricComparison, retention: MetricComparison | None = None) -> Verdict:
    """Whether the tuned model still says what its base says to general prompts.

    A model may say other things and know as much, so where the retention suite shows nothing, drift is only a note.
    """
    distance = drift.difference.value
    evidence = f"{_change(drift, drift.difference)} nats per token from the base on {drift.rows} of its own replies"
    if drift.difference.low <= 0 or distance < DRIFTED:
        return Verdict("drift", "good", "It still answers general prompts much as its base does.", evidence, "")
    finding = f"The tuned model drifted from its base: {distance:.2f} nats per token on general prompts."
    if retention is not None and judge_retention(retention).status == "good":
        return Verdict("drift", "note", finding, evidence, "Look at its replies to prompts outside the task.")
    return msgspec.structs.replace(
        _forgot("bad" if distance >= 2 * DRIFTED else "warn", finding, evidence), name="drift"
    )


def judge_leak(leak: Leak) -> Verdict:
    """Whether rows it is evaluated on were trained on."""
    evidence = f"{leak.leaked} of {leak.rows} evaluated rows ask (nearly) what a training row asks"
    if not leak.leaked:
        return Verdict("data leak", "good", "No evaluated row was trained on.", evidence, "")
    return Verdict(
        "data leak",
        "bad" if leak.leaked > LEAKED * leak.rows else "warn",
        f"{leak.leaked / leak.rows:.0%} of the evaluated rows were trained on: the scores measure memory.",
        evidence,
        "Remove them from one side, or split anew: tunesmith data split FILE --holdout 0.1 --out DIR.",
        "evaluation rows in the training data",
    )


_DATA_SIGNALS = {
    "size": ("too few examples", "too few examples: underfitting, poor generalization"),
    "contradictions": ("contradictions", "contradicting examples confuse the model"),
    "provenance": ("generated data", "trained on generated data only"),
}
"""Of the checklist's findings those that explain a result: the verdict's name and the sign it matches."""


def judge_data(check: CheckReport) -> list[Verdict]:
    """What the checklist found in the training data that would explain a bad result."""
    return [_from_finding(finding) for finding in check.findings if finding.check in _DATA_SIGNALS]


def judge_adapter(adapter: AdapterState) -> Verdict:
    """Whether the adapter still has to be merged before the model is served: a thing to do, not an alarm."""
    more = "" if adapter.overhead is None else f"; {adapter.overhead:.1%} more parameters to compute with"
    if adapter.merged:
        return Verdict("adapter", "good", "The adapter is merged into the base's weights.", "merged/ is there", "")
    return Verdict(
        "adapter",
        "note",
        "The adapter is not merged: every reply pays for it.",
        f"adapter/ without merged/{more}",
        f"Before production: tunesmith export {adapter.run} --to merged.",
        "adapter not merged for production",
    )


def _from_event(event: VerdictEvent) -> Verdict:
    status: Status = msgspec.convert(event.status, Status)
    return Verdict(event.name, status, event.finding, event.evidence, event.mend, event.signal)


def _from_finding(finding: Finding) -> Verdict:
    name, signal = _DATA_SIGNALS[finding.check]
    status: Status = {"pass": "good", "warn": "warn", "fail": "bad"}[finding.status]  # type: ignore[assignment]
    evidence = f"{finding.count:,} rows" if finding.status != "pass" else "by the checklist (tunesmith data check)"
    said = finding.finding[:1].upper() + finding.finding[1:]
    return Verdict(name, status, said, evidence, finding.mend or "", signal if status != "good" else "")


def _forgot(status: Status, finding: str, evidence: str) -> Verdict:
    mend = (
        "Mix general rows into training (data.replay: FILE), lower the learning rate, or train for fewer epochs "
        "(LoRA forgets less than full fine-tuning)."
    )
    return Verdict("forgetting", status, finding, evidence, mend, "worse than the base on general tasks")


def _without_repeats(verdicts: list[Verdict]) -> tuple[Verdict, ...]:
    """The curves and the recital may both say memorized: of two verdicts of one name the graver stays."""
    order = ("good", "note", "warn", "bad")
    kept: dict[str, Verdict] = {}
    for verdict in verdicts:
        known = kept.get(verdict.name)
        if known is None or order.index(verdict.status) > order.index(known.status):
            kept[verdict.name] = verdict
    return tuple(kept.values())


def _sure(difference: Estimate) -> bool:
    return difference.low > 0 or difference.high < 0


def _shown(metric: MetricComparison, value: float) -> str:
    return f"{value:.0%}" if metric.top == 1.0 else f"{value:.3g}" if metric.top else f"{value:.3f}"


def _points(metric: MetricComparison, value: float) -> str:
    return f"{100 * value:.0f} points" if metric.top == 1.0 else f"{value:.3g}"


def _interval(metric: MetricComparison) -> str:
    return _change(metric, metric.difference)


def _change(metric: MetricComparison, difference: Estimate) -> str:
    if metric.top == 1.0:
        value, low, high = (100 * part for part in (difference.value, difference.low, difference.high))
        return f"{value:+.0f} points (95% interval {low:+.0f} to {high:+.0f})"
    return f"{difference.value:+.3f} (95% interval {difference.low:+.3f} to {difference.high:+.3f})"
