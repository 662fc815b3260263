"""The decision tree, as data, and how each of its questions is answered from evidence.

The tree is the field's usual one: prompts first, then retrieval for missing knowledge, fine-tuning for behaviour, a
smaller tuned model where the base is too slow or dear, prompts again otherwise. Before a leaf that trains, it asks
whether there is data enough. Thresholds are named here, so they can be argued with; a person's own bar for "good
enough" comes with `--target`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Struct

from tunesmith.advice.knowledge import Diagnosis
from tunesmith.advice.result import Baseline, Needs, Recommendation, Step
from tunesmith.evaluation.metrics import Task
from tunesmith.evaluation.result import Estimate

TARGETS: dict[Task, float] = {"classification": 0.95, "extraction": 0.95, "free text": 0.7}
"""Scores that are good enough where nobody says otherwise. Two people who answer freely share about so many words."""

FACTS_TARGET = 0.9
"""Replies that lack more than a tenth of the facts solve nothing, however well they are worded."""

MOSTLY = 0.5
"""Share of the misses, or of the gap to the target, that makes a cause the main one."""

VOLATILE = 0.3
"""Share of the references with facts that change, past which the task is about them."""

NEAR = 0.05
"""A score this little below the target, whose interval reaches it, is a matter of more rows or a better prompt."""

AGREEMENT = 0.9
"""Rows with the same prompt must have the same answer at least so often, in a task with one right answer."""

EFFORT_USD = 2_000
"""What a fine-tune costs in people's time before it pays: data, training, evaluation, upkeep; about a week."""

MONTHS = 12
"""Savings are counted over so many months."""


@dataclass(frozen=True)
class Evidence:
    """All that the questions are answered from; scores are those of `task`'s headline metric.

    `prompts`, `shots` and `retrieval` are the baselines; `retrieval_gain` is over the best of the others, paired.
    `bits_per_byte` are the model's on the rows' text, `pair_bits_per_byte` those of pairs of letters (`reading.py`).
    `tuned_call_usd`: 1,000 calls of a smaller tuned model; `upfront_usd`: its training. `contradicting`: share of the
    rows whose prompt has another answer elsewhere. `text_only`: the rows are plain text, with nothing to answer.
    """

    task: Task
    target: float
    prompts: tuple[Baseline, ...]
    shots: tuple[Baseline, ...]
    retrieval: Baseline | None
    retrieval_gain: Estimate | None
    over_documents: bool
    diagnosis: Diagnosis | None
    prompt_fact_recall: float | None
    shot_fact_recall: float | None
    bits_per_byte: float | None
    pair_bits_per_byte: float | None
    needs: Needs
    rows: int
    minimum_rows: int
    good_rows: int
    held_out: int
    contradicting: float
    text_only: bool
    tuned_call_usd: float | None
    upfront_usd: float | None

    @property
    def best_prompt(self) -> Baseline | None:
        """The best of the plain prompt and the instruction."""
        return max(self.prompts, key=lambda baseline: baseline.score.value, default=None)

    @property
    def best_shots(self) -> Baseline | None:
        """The best number of examples."""
        return max(self.shots, key=lambda baseline: baseline.score.value, default=None)

    @property
    def best(self) -> Baseline | None:
        """The best way of asking without retrieval."""
        found = [baseline for baseline in (self.best_prompt, self.best_shots) if baseline is not None]
        return max(found, key=lambda baseline: baseline.score.value, default=None)

    @property
    def solving(self) -> Baseline | None:
        """The way of least effort that solves the task, examples as few as will do; None where nothing does."""
        if _solves(self, self.best_prompt, self.prompt_fact_recall):
            return next(baseline for baseline in self.prompts if baseline.score.value >= self.target)
        if _solves(self, self.best_shots, self.shot_fact_recall):
            return next(baseline for baseline in self.shots if baseline.score.value >= self.target)
        return None


class Question(Struct, frozen=True):
    """A node of the tree; `yes` and `no` are names of further questions, or recommendations."""

    text: str
    yes: str
    no: str


TREE: dict[str, Question] = {
    "readable": Question("Are there enough held-out rows to measure anything?", "prompt", "language of few"),
    "language of few": Question(
        "Is the language or domain entirely new to the model?", "continued pretraining", "text only"
    ),
    "text only": Question(
        "Is the data plain text, with no questions and answers?", "retrieval (RAG)", "collect more data first"
    ),
    "prompt": Question("Can a prompt solve it?", "prompt affordable", "few-shot"),
    "few-shot": Question("Can a few examples in the prompt solve it?", "few-shot affordable", "knowledge"),
    "prompt affordable": Question(
        "Is that prompt fast and cheap enough?", "stop at prompting", "enough rows for a smaller model"
    ),
    "few-shot affordable": Question(
        "Are those examples fast and cheap enough?", "few-shot examples", "enough rows for a smaller model"
    ),
    "knowledge": Question("Is the issue missing knowledge?", "retrieval (RAG)", "language"),
    "language": Question("Is the language or domain entirely new to the model?", "continued pretraining", "behaviour"),
    "behaviour": Question("Is it about style, format or behaviour?", "consistent", "too slow"),
    "consistent": Question("Do the rows agree with each other?", "enough rows", "collect more data first"),
    "enough rows": Question(
        "Are there enough rows to learn it from?", "affordable once tuned", "collect more data first"
    ),
    "affordable once tuned": Question(
        "Would this model be fast enough once tuned?", "fine-tune", "fine-tune a smaller model"
    ),
    "too slow": Question(
        "Is the base model too slow or too expensive?", "enough rows for a smaller model", "revisit prompt engineering"
    ),
    "enough rows for a smaller model": Question(
        "Are there enough rows to teach a smaller model?", "fine-tune a smaller model", "collect more data first"
    ),
}
"""From "readable" down; a name that is no question is the recommendation."""

ROOT = "readable"


class Finding(Struct, frozen=True):
    """An answer with its numbers."""

    yes: bool
    evidence: str


def walk(evidence: Evidence) -> tuple[Recommendation, tuple[Step, ...]]:
    """The recommendation, and the questions on the way to it with their answers."""
    steps = []
    place = ROOT
    while place in TREE:
        node = TREE[place]
        finding = ANSWERS[place](evidence)
        steps.append(Step(node.text, "yes" if finding.yes else "no", finding.evidence))
        place = node.yes if finding.yes else node.no
    return place, tuple(steps)  # type: ignore[return-value]  # a test holds that every leaf is a Recommendation


def points(share: float) -> str:
    """A share as people say it."""
    return f"{100 * share:.0f}%"


def shown(baseline: Baseline) -> str:
    """The baseline with its score and interval."""
    score = baseline.score
    return f"{baseline.name} {points(score.value)} ({points(score.low)} to {points(score.high)})"


FEWEST_MEASURED = 20
"""Held-out rows: fewer prove nothing (Hesterberg 2015, The American Statistician 69:371)."""


def _readable(evidence: Evidence) -> Finding:
    return Finding(
        evidence.held_out >= FEWEST_MEASURED,
        f"{evidence.held_out} held-out rows with a text to answer; {FEWEST_MEASURED} are the least that show anything",
    )


def _text_only(evidence: Evidence) -> Finding:
    if evidence.text_only:
        return Finding(True, "every row is plain text; the model reads the language, so the texts are its knowledge")
    return Finding(False, f"{evidence.rows:,} rows of questions and answers are too few to measure on")


def _solves(evidence: Evidence, baseline: Baseline | None, fact_recall: float | None) -> bool:
    if baseline is None or baseline.score.value < evidence.target:
        return False
    return evidence.task != "free text" or fact_recall is None or fact_recall >= FACTS_TARGET


def _prompt(evidence: Evidence) -> Finding:
    return _solution(evidence, evidence.best_prompt, evidence.prompt_fact_recall, "no prompt fits the model's context")


def _few_shot(evidence: Evidence) -> Finding:
    return _solution(evidence, evidence.best_shots, evidence.shot_fact_recall, "no example fits the model's context")


def _solution(evidence: Evidence, best: Baseline | None, fact_recall: float | None, nothing: str) -> Finding:
    if best is None:
        return Finding(False, nothing)
    facts = ""
    if evidence.task == "free text" and fact_recall is not None and best.score.value >= evidence.target:
        facts = f"; its replies have {points(fact_recall)} of the facts, {points(FACTS_TARGET)} are needed"
    return Finding(
        _solves(evidence, best, fact_recall),
        f"best: {shown(best)}, against a target of {points(evidence.target)}{facts}",
    )


def _language(evidence: Evidence) -> Finding:
    bits, pairs = evidence.bits_per_byte, evidence.pair_bits_per_byte
    if bits is None or pairs is None:
        return Finding(False, "an endpoint does not tell how well it predicts the text; taken as known")
    return Finding(
        bits >= pairs, f"{bits:.2f} bits per byte on the rows' text, where pairs of letters alone need {pairs:.2f}"
    )


def _knowledge(evidence: Evidence) -> Finding:
    found = evidence.diagnosis
    assert found is not None  # noqa: S101  # measured whenever there are rows to ask
    counted = (
        f"{found.facts_in_documents + found.facts_nowhere} of {found.misses} misses lack facts that the prompt does "
        "not give"
    )
    if evidence.over_documents:
        counted += f", {points(found.found_share)} of them with the facts in the documents"
    reasons = []
    if found.misses and found.knowledge_share >= MOSTLY:
        reasons.append(counted)
    if (closed := _gap_closed(evidence)) is not None and evidence.retrieval is not None:
        text = f"{shown(evidence.retrieval)} closes {points(closed)} of the gap"
        if closed >= MOSTLY:
            reasons.append(text)
    if evidence.needs.fresh_data:
        reasons.append("the answers need fresh data, as you said, and training freezes them")
    elif found.volatile_share >= VOLATILE and found.knowledge_share > 0 and evidence.needs.fresh_data is None:
        reasons.append(
            f"{points(found.volatile_share)} of the answers hold facts that change (dates, prices, versions)"
        )
    return Finding(bool(reasons), "; ".join(reasons) or counted)


def _gap_closed(evidence: Evidence) -> float | None:
    """The share of the gap to the target that retrieval over documents closes, where that is beyond doubt."""
    gain, best = evidence.retrieval_gain, evidence.best
    if not evidence.over_documents or gain is None or best is None or gain.low <= 0:
        return None
    return min(1.0, gain.value / max(evidence.target - best.score.value, 1e-9))


def _behaviour(evidence: Evidence) -> Finding:
    found, best = evidence.diagnosis, evidence.best
    assert found is not None  # noqa: S101
    if best is not None and best.score.high >= evidence.target and best.score.value >= evidence.target - NEAR:
        return Finding(
            False, f"{shown(best)} cannot be told from the target of {points(evidence.target)} on {found.rows} rows"
        )
    return Finding(
        True,
        f"{found.form + found.content} of {found.misses} misses had all the facts: {found.form} broke the form, "
        f"{found.content} kept it and said the wrong thing",
    )


def _consistent(evidence: Evidence) -> Finding:
    return Finding(
        evidence.contradicting <= 1 - AGREEMENT,
        f"{points(evidence.contradicting)} of the rows ask what another row answers differently",
    )


def _enough_rows(evidence: Evidence) -> Finding:
    return Finding(
        evidence.rows >= evidence.minimum_rows,
        f"{evidence.rows:,} different rows; this kind of task needs {evidence.minimum_rows:,}, "
        f"{evidence.good_rows:,} are good",
    )


def _affordable(evidence: Evidence) -> Finding:
    solving = evidence.solving
    return Finding(True, "nothing was measured") if solving is None else _price_and_speed(evidence, solving)


def _affordable_once_tuned(evidence: Evidence) -> Finding:
    budget, plain = evidence.needs.latency_budget, evidence.prompts[0] if evidence.prompts else None
    if budget is None or plain is None or plain.latency_seconds is None:
        return Finding(True, "no latency budget was given")
    taken = 1_000 * plain.latency_seconds
    return Finding(taken <= budget, f"a plain call takes {taken:,.0f} ms, the budget is {budget:,.0f} ms")


def _too_slow(evidence: Evidence) -> Finding:
    best = evidence.best
    if best is None:
        return Finding(False, "nothing was measured")
    finding = _price_and_speed(evidence, best)
    return Finding(not finding.yes, finding.evidence)


def _price_and_speed(evidence: Evidence, chosen: Baseline) -> Finding:
    """Whether `chosen` keeps the latency budget, and a smaller tuned model would not pay for itself in a year."""
    needs, told, fine = evidence.needs, [], True
    if needs.latency_budget is not None and chosen.latency_seconds is not None:
        taken = 1_000 * chosen.latency_seconds
        fine &= taken <= needs.latency_budget
        told.append(f"{taken:,.0f} ms a call, the budget is {needs.latency_budget:,.0f} ms")
    per_call, tuned = chosen.usd_per_thousand_calls, evidence.tuned_call_usd
    if needs.monthly_calls is not None and per_call is not None and tuned is not None:
        saved = (per_call - tuned) * needs.monthly_calls / 1_000
        needed = EFFORT_USD + (evidence.upfront_usd or 0.0)
        fine &= MONTHS * saved <= needed
        told.append(
            f"${per_call * needs.monthly_calls / 1_000:,.2f} a month; a smaller tuned model would save "
            f"${max(MONTHS * saved, 0):,.0f} a year, and pays from ${needed:,.0f}"
        )
    return Finding(fine, "; ".join(told) or "no latency budget and no volume were given")


ANSWERS: dict[str, Callable[[Evidence], Finding]] = {
    "readable": _readable,
    "language of few": _language,
    "text only": _text_only,
    "prompt": _prompt,
    "few-shot": _few_shot,
    "prompt affordable": _affordable,
    "few-shot affordable": _affordable,
    "language": _language,
    "knowledge": _knowledge,
    "behaviour": _behaviour,
    "consistent": _consistent,
    "enough rows": _enough_rows,
    "affordable once tuned": _affordable_once_tuned,
    "too slow": _too_slow,
    "enough rows for a smaller model": _enough_rows,
}
