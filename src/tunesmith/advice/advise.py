"""`tunesmith advise`: measure what needs no training, find what is missing, walk the tree, say what to do."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tunesmith.advice.approaches import alternatives, pitfall, would_change
from tunesmith.advice.baselines import METRIC_NAMES, PASSAGES, Measured, Trial, gain, measure
from tunesmith.advice.decision import AGREEMENT, FEWEST_MEASURED, TARGETS, Evidence, points, shown, walk
from tunesmith.advice.embeddings import Embeddings
from tunesmith.advice.instruction import write_instruction
from tunesmith.advice.knowledge import Diagnosis, Facts, diagnose, learn_facts
from tunesmith.advice.reading import pair_bits_per_byte
from tunesmith.advice.responders import Responder
from tunesmith.advice.result import Advice, Needs, Recommendation, Training
from tunesmith.advice.training_plan import Subject, plan_training, subject
from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.nearest import Index
from tunesmith.dataset.prompting import question, reference
from tunesmith.dataset.split import prompt_text, split
from tunesmith.errors import SpecError
from tunesmith.evaluation.metrics import Task, infer_task, label
from tunesmith.planning.data_facts import ANY_TASK_ROWS, RECOMMENDED_ROWS
from tunesmith.planning.figures import compact
from tunesmith.planning.inference import own_price
from tunesmith.planning.shapes import load_shape
from tunesmith.quality.check import Row, row_texts
from tunesmith.quality.task import TaskInference

ROWS = 100
"""Held-out rows measured by default: a proportion is then known within about 8 to 10 points."""

MOST_HELD_OUT = 0.5
LEAST_HELD_OUT = 0.1
"""Share of the rows held out: as many as `ROWS` needs, within these."""

FACT_FREE = 0.1
"""Texts whose misses lack facts at most so often need no expertise of a domain: their manner is to be learned."""

SEED = 0


@dataclass(frozen=True)
class Asked:
    """What the person asked for: see `tunesmith.api.advise`. Raises SpecError for what makes no sense."""

    rows: int = ROWS
    target: float | None = None
    needs: Needs = field(default_factory=Needs)
    prices: Path | None = None

    def __post_init__(self) -> None:
        if self.rows < FEWEST_MEASURED:
            raise SpecError(f"--rows {self.rows}: fewer than {FEWEST_MEASURED} rows decide nothing; 100 is usual")
        if self.target is not None and not 0 < self.target <= 1:
            raise SpecError(f"--target {self.target:g}: give a share between 0 and 1, such as 0.9")
        for flag, given in (
            ("--latency-budget", self.needs.latency_budget),
            ("--monthly-calls", self.needs.monthly_calls),
        ):
            if given is not None and given <= 0:
                raise SpecError(f"{flag} {given:g}: give a number above 0, or leave it out")


def advise(
    rows: Sequence[Conversation],
    model: str,
    responder: Responder,
    *,
    passages: Sequence[str] = (),
    embeddings: Embeddings | None = None,
    asked: Asked = Asked(),
    tell: Callable[[str], None] = lambda name: None,
) -> Advice:
    """Measure `responder` (the base model named `model`) on held-out `rows` and decide.

    `passages` are the documents' (see `read_passages`), which `embeddings` searches, too; `tell` hears of each way of
    asking before it starts.
    """
    started = time.monotonic()
    answerable = [row for row in rows if reference(row)]
    notes = _left_out(rows, answerable)
    held_out, train = _hold_out(answerable, asked.rows)
    task = infer_task([reference(row) for row in answerable]) if answerable else "free text"
    about = subject(model, asked.prices)
    notes.append(
        f"no price is known for {model}: add it to a price table (--prices) to see the cost of calls"
        if about.price is None
        else f"calls are priced by {about.price.basis}"
    )
    trial = Trial(task, held_out, train, passages, embeddings)
    instruction = write_instruction(task, [reference(row) for row in train]) if train else None
    measured = [] if instruction is None else measure(trial, responder, about.price, instruction, tell)

    kind = _kind(answerable or rows, task)
    facts = learn_facts(task, [reference(row) for row in train], code=kind == "code")
    evidence = _evidence(rows, answerable, kind, trial, measured, facts, responder, about, asked)
    recommendation, steps = walk(evidence)
    training = plan_training(
        rows, about, task, smaller=recommendation == "fine-tune a smaller model", prices=asked.prices
    )
    best = evidence.best
    return Advice(
        recommendation=recommendation,
        summary=_summary(recommendation, evidence, training),
        steps=steps,
        would_change=would_change(recommendation, evidence),
        pitfall=str(pitfall(recommendation, evidence)),
        task=task if answerable else "plain text",
        metric=METRIC_NAMES[task],
        target=evidence.target,
        rows=len(rows),
        held_out=len(held_out),
        model=model,
        best=None if best is None else best.name,
        recipe=next((item.recipe for item in measured if item.baseline is best), None),
        instruction=instruction,
        baselines=tuple(item.baseline for item in measured),
        diagnosis=evidence.diagnosis,
        bits_per_byte=evidence.bits_per_byte,
        pair_bits_per_byte=evidence.pair_bits_per_byte,
        training=training,
        alternatives=alternatives(evidence, training),
        needs=asked.needs,
        notes=tuple(notes),
        seconds=time.monotonic() - started,
    )


def _left_out(rows: Sequence[Conversation], answerable: Sequence[Conversation]) -> list[str]:
    missing = len(rows) - len(answerable)
    return [f"{missing:,} rows have no text to answer with (plain text or tool calls) and were not asked"] * bool(
        missing
    )


def _hold_out(rows: Sequence[Conversation], wanted: int) -> tuple[list[Conversation], list[Conversation]]:
    """At most `wanted` held-out rows, and the rest of the leak-free split to learn from."""
    if len(rows) < 2:
        return [], []
    share = min(max(wanted / len(rows), LEAST_HELD_OUT), MOST_HELD_OUT)
    parts = split(rows, share, SEED)
    held = list(parts.holdout)
    if len(held) > wanted:
        chosen = np.random.default_rng(SEED).choice(len(held), wanted, replace=False)
        held = [held[index] for index in sorted(chosen)]
    return held, list(parts.train)


def _evidence(
    rows: Sequence[Conversation],
    answerable: Sequence[Conversation],
    kind: str,
    trial: Trial,
    measured: Sequence[Measured],
    facts: Facts,
    responder: Responder,
    about: Subject,
    asked: Asked,
) -> Evidence:
    task = trial.task
    prompts = [item for item in measured if item.baseline.approach in ("prompt", "instruction")]
    shots = [item for item in measured if item.baseline.approach == "few-shot"]
    retrievals = [item for item in measured if item.baseline.approach == "retrieval"]
    retrieval = max(retrievals, key=lambda item: item.baseline.score.value, default=None)
    best = max([*prompts, *shots], key=lambda item: item.baseline.score.value, default=None)
    look = _diagnoser(trial, facts)
    diagnosis = None if best is None else look(best)
    if kind == "domain" and diagnosis is not None and diagnosis.knowledge_share <= FACT_FREE:
        kind = "style"
    minimum, good, _ = RECOMMENDED_ROWS.get(kind, ANY_TASK_ROWS)
    small = plan_training(rows, about, task, smaller=True, prices=asked.prices)
    small_price = own_price(load_shape(small.model))
    plain = prompts[0].baseline if prompts else None
    return Evidence(
        task=task,
        target=TARGETS[task] if asked.target is None else asked.target,
        prompts=tuple(item.baseline for item in prompts),
        shots=tuple(item.baseline for item in shots),
        retrieval=None if retrieval is None else retrieval.baseline,
        retrieval_gain=None if retrieval is None or best is None else gain(best, retrieval),
        over_documents=bool(trial.passages),
        diagnosis=diagnosis,
        prompt_fact_recall=_fact_recall(prompts, look),
        shot_fact_recall=_fact_recall(shots, look),
        bits_per_byte=responder.bits_per_byte(rows),
        pair_bits_per_byte=pair_bits_per_byte(rows),
        needs=asked.needs,
        rows=len({_text(row) for row in rows}),
        minimum_rows=minimum,
        good_rows=good,
        held_out=len(trial.rows),
        contradicting=0.0 if task == "free text" else _contradicting(answerable),
        text_only=not answerable and any(row.text is not None for row in rows),
        tuned_call_usd=(
            None
            if plain is None or small_price is None
            else small_price.thousand_calls(plain.prompt_tokens, plain.reply_tokens)
        ),
        upfront_usd=small.usd,
    )


def _diagnoser(trial: Trial, facts: Facts) -> Callable[[Measured], Diagnosis]:
    documents = Index(trial.passages)
    labels = frozenset(label(reference(row)) for row in trial.train)

    def passages(index: int) -> list[str]:
        # Looked for with the answer too: this asks whether the documents hold it, not whether retrieval finds it.
        query = f"{question(trial.rows[index])} {trial.references[index]}"
        return [trial.passages[position] for position in documents.search(query, PASSAGES)]

    return lambda item: diagnose(
        trial.task, trial.rows, trial.references, item.replies, item.scores.tolist(), facts, passages, labels
    )


def _fact_recall(measured: Sequence[Measured], look: Callable[[Measured], Diagnosis]) -> float | None:
    best = max(measured, key=lambda item: item.baseline.score.value, default=None)
    return None if best is None else look(best).fact_recall


def _kind(rows: Sequence[Conversation], task: Task) -> str:
    """What the rows teach, by the names that numbers of rows are recommended for."""
    if task in RECOMMENDED_ROWS:
        return task
    inference = TaskInference()
    inference.add(inference.observe([Row(index, row, *row_texts(row)) for index, row in enumerate(rows)]))
    return inference.infer().name


def _contradicting(rows: Sequence[Conversation]) -> float:
    """Share of the rows whose whole prompt has another answer, too, and theirs is not the most frequent one."""
    answers: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for row in rows:
        answers[tuple(message.content for message in row.prompt)][label(reference(row))] += 1
    return sum(counts.total() - max(counts.values()) for counts in answers.values()) / max(len(rows), 1)


def _text(row: Conversation) -> str:
    return prompt_text(row) if row.text is not None else f"{prompt_text(row)}\n{reference(row)}"


def _summary(recommendation: Recommendation, evidence: Evidence, training: Training) -> str:
    best, solving, retrieval = evidence.best, evidence.solving, evidence.retrieval
    target = points(evidence.target)
    match recommendation:
        case "stop at prompting" | "few-shot examples" if solving is not None:
            what = "Stop at prompting" if recommendation == "stop at prompting" else "Show examples in the prompt"
            return f"{what}: {shown(solving)} meets the target of {target} with no training."
        case "retrieval (RAG)":
            measured = "" if retrieval is None or not evidence.over_documents else f" {shown(retrieval)}."
            return f"Use retrieval (RAG): what is missing is knowledge, which training teaches badly.{measured}"
        case "fine-tune":
            assert best is not None  # noqa: S101  # the tree asked for measured rows
            return (
                f"Fine-tune {training.model} with {training.method}: the best without training, {shown(best)}, misses "
                f"the target of {target}, and what is missing is behaviour."
            )
        case "fine-tune a smaller model":
            size = "" if training.parameters is None else f" ({compact(training.parameters)} parameters)"
            name = f"{training.model}{size}" if training.smaller else "smaller than any that is known"
            return f"Fine-tune a smaller model, {name}, with {training.method}: for cost or latency, not for quality."
        case "continued pretraining":
            return (
                f"Continue pretraining, or choose another base model: this one cannot read the text "
                f"({evidence.bits_per_byte:.2f} bits per byte, pairs of letters {evidence.pair_bits_per_byte:.2f})."
            )
        case "collect more data first":
            if evidence.contradicting > 1 - AGREEMENT:
                share = points(evidence.contradicting)
                return f"Collect better data first: {share} of the rows contradict another row."
            return (
                f"Collect more data first: {evidence.rows:,} usable rows are too few, this kind of task needs "
                f"{evidence.minimum_rows:,}."
            )
        case _:
            reached = "" if best is None else f" {shown(best)} is within reach of the target of {target}."
            return f"Revisit prompt engineering:{reached}"
