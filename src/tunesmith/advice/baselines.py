"""The base model measured before anything is trained: a plain prompt, an instruction, examples, retrieval.

All ways answer the same held-out rows, so their differences are paired. Examples and passages are chosen for each row
by BM25 from the training part, which the split keeps free of near-duplicates of the held-out rows; passages by an
embedding model, too, where one is given. Each further way builds on the better of the two prompts. The cost is one call
per row and way.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tunesmith.advice.embeddings import Embeddings
from tunesmith.advice.responders import Reply, Responder
from tunesmith.advice.result import Approach, Baseline
from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.nearest import Index
from tunesmith.dataset.prompting import (
    Examples,
    Prompt,
    Recipe,
    question,
    reference,
    with_examples,
    with_instruction,
    with_passages,
)
from tunesmith.evaluation import metrics
from tunesmith.evaluation.comparison import headline_score
from tunesmith.evaluation.metrics import Task
from tunesmith.evaluation.result import Estimate
from tunesmith.evaluation.statistics import Values, paired_bootstrap, weighted_mean, wilson
from tunesmith.planning.inference import TokenPrice

SHOTS = (1, 3, 5)
"""Numbers of examples tried; gains flatten after a handful (Brown et al. 2020, https://arxiv.org/abs/2005.14165)."""

PASSAGES = 3
"""Passages retrieved for each question."""

MAX_NEW_TOKENS = 512
"""No reply is longer; shorter references lower it."""

METRIC_NAMES: dict[Task, str] = {"classification": "accuracy", "extraction": "field F1", "free text": "token F1"}


@dataclass(frozen=True)
class Trial:
    """What is asked and with what: the held-out rows, the training rows, the documents' passages.

    `embeddings` finds passages by their meaning, where a model for that was given.
    """

    task: Task
    rows: Sequence[Conversation]
    train: Sequence[Conversation]
    passages: Sequence[str]
    embeddings: Embeddings | None = None
    references: list[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "references", [reference(row) for row in self.rows])


@dataclass(frozen=True)
class Measured:
    """A baseline with the replies and the per-row scores (0 to 1) behind it; `recipe` asks so again."""

    baseline: Baseline
    replies: list[str]
    scores: Values
    recipe: Recipe


@dataclass(frozen=True)
class Way:
    """A way of asking: how many examples or passages it uses, and the prompt it makes for each row."""

    name: str
    approach: Approach
    examples: int
    recipe: Recipe
    prompts: Callable[[int], list[Prompt]]
    """From how many examples or passages at most to the prompts of all rows."""


def measure(
    trial: Trial,
    responder: Responder,
    price: TokenPrice | None,
    instruction: str,
    tell: Callable[[str], None] = lambda name: None,
) -> list[Measured]:
    """Every way of asking that fits the model's context, in order of effort; `tell` hears of each before it starts."""
    room = _reply_tokens(responder, trial.references)

    def ask(way: Way) -> Measured | None:
        prompts = _fitting(way, responder, room)
        if prompts is None:
            return None
        tell(way.name)
        return _score(trial, way, responder.answer(prompts, room), price)

    plain = [row.prompt for row in trial.rows]
    instructed = [with_instruction(prompt, instruction) for prompt in plain]
    first = [
        ask(Way("plain prompt", "prompt", 0, Recipe(), lambda _: plain)),
        ask(Way("instruction", "instruction", 0, Recipe(instruction), lambda _: instructed)),
    ]
    prompts = [measured for measured in first if measured is not None]
    if not prompts:
        return []
    best = max(prompts, key=lambda measured: measured.baseline.score.value)
    base = plain if best.baseline.approach == "prompt" else instructed
    ways = _with_help(trial, base, best.recipe)
    return prompts + [measured for way in ways if (measured := ask(way)) is not None]


def gain(over: Measured, measured: Measured) -> Estimate:
    """How much better `measured` scores than `over` on the same rows."""
    return paired_bootstrap(weighted_mean(over.scores), weighted_mean(measured.scores), len(over.scores)).difference


def _with_help(trial: Trial, base: Sequence[Prompt], recipe: Recipe) -> Iterator[Way]:
    examples = Examples(trial.train)

    def few_shot(count: int) -> list[Prompt]:
        return [with_examples(prompt, examples(row, count)) for prompt, row in zip(base, trial.rows, strict=True)]

    for count in SHOTS:
        if count < len(trial.train):
            name = "1 example" if count == 1 else f"{count} examples"
            yield Way(name, "few-shot", count, Recipe(recipe.instruction, count), few_shot)
    if trial.passages:
        texts, where = trial.passages, "the documents"
    else:
        texts, where = [f"{question(row)}\n{reference(row)}" for row in trial.train], "the training rows"
    library = Index(texts)
    questions = [question(row) for row in trial.rows]
    found = {f"retrieval over {where}": [library.search(text, PASSAGES) for text in questions]}
    if trial.embeddings is not None:
        found[f"retrieval by meaning over {where}"] = trial.embeddings.nearest(texts, questions, PASSAGES)
    for name, positions in found.items():
        yield Way(name, "retrieval", PASSAGES, recipe, _retrieval(base, texts, positions))


def _retrieval(
    base: Sequence[Prompt], texts: Sequence[str], found: Sequence[Sequence[int]]
) -> Callable[[int], list[Prompt]]:
    def prompts(count: int) -> list[Prompt]:
        return [
            with_passages(prompt, [texts[position] for position in positions[:count]])
            for prompt, positions in zip(base, found, strict=True)
        ]

    return prompts


def _fitting(way: Way, responder: Responder, room: int) -> list[Prompt] | None:
    """The way's prompts, rows that are too long for the context with less help; None where most would have none."""
    prompts = way.prompts(way.examples)
    context = responder.context
    if context is None:
        return prompts
    for count in range(way.examples, -1, -1):
        long = [index for index, asked in enumerate(prompts) if responder.count_tokens(asked) + room > context]
        if not long:
            return prompts
        if count == 0 or 2 * len(long) > len(prompts):
            return None
        shorter = way.prompts(count - 1)
        for index in long:
            prompts[index] = shorter[index]
    return None


def _score(trial: Trial, way: Way, replies: list[Reply], price: TokenPrice | None) -> Measured:
    texts = [reply.text for reply in replies]
    scores = metrics.scores(headline_score(trial.task), texts, trial.references)
    prompt_tokens = statistics.fmean(reply.prompt_tokens for reply in replies)
    reply_tokens = statistics.fmean(reply.reply_tokens for reply in replies)
    timed = [reply.seconds for reply in replies if reply.seconds is not None]
    baseline = Baseline(
        name=way.name,
        approach=way.approach,
        examples=way.examples,
        score=_estimate(trial.task, scores),
        rows=len(texts),
        prompt_tokens=prompt_tokens,
        reply_tokens=reply_tokens,
        latency_seconds=statistics.median(timed) if timed else None,
        usd_per_thousand_calls=None if price is None else price.thousand_calls(prompt_tokens, reply_tokens),
    )
    return Measured(baseline, texts, scores, way.recipe)


def _estimate(task: Task, scores: Values) -> Estimate:
    """The mean with its 95% interval: Wilson's where rows are right or wrong, else a bootstrap over rows."""
    if task == "classification":
        return wilson(int(np.sum(scores == 1.0)), len(scores))
    mean = weighted_mean(scores)
    return paired_bootstrap(mean, mean, len(scores)).base


def _reply_tokens(responder: Responder, references: Sequence[str]) -> int:
    """Room for the longest reference and a quarter more, so that rambling shows and costs little."""
    longest = max((responder.count_tokens((Message("assistant", text),)) for text in references), default=0)
    return min(MAX_NEW_TOKENS, longest + longest // 4 + 8)
