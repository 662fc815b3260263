"""What the judgements say: who wins how often and how surely, whether raters agree, and how strong each model is.

Ties and both-bad are told, and left out of the sign test (Dixon and Mood 1946, https://doi.org/10.2307/2280577). Where
several raters judged a duel each judgement counts, so raters' agreement is shown beside: intervals hold if they judge
independently.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from tunesmith.errors import MissingDependencyError
from tunesmith.evaluation.human.duels import Board
from tunesmith.evaluation.human.store import CHOICES, Judgement
from tunesmith.evaluation.result import Estimate
from tunesmith.evaluation.statistics import Values, mcnemar, wilson

PRIOR = 0.1
"""Regularization of the Bradley-Terry fit, so that a model that never lost has a finite strength."""

REPLICATES = 500
"""Bootstrap samples of rows for the strengths' intervals: each is a fit."""


class PairResult(Struct, frozen=True):
    """Two models' duels: `share` is the first's of those that one of them won, None when there is none; `p` that
    they are equally good, by the exact sign test."""

    first: str
    second: str
    first_wins: int
    second_wins: int
    ties: int
    both_bad: int
    share: Estimate | None
    p: float


class Strength(Struct, frozen=True):
    """A model's Bradley-Terry strength as its chance to win against an average model of these."""

    model: str
    chance: Estimate


class Rater(Struct, frozen=True):
    """How many duels a rater has judged, and the median seconds they took."""

    name: str
    judged: int
    seconds: float


class Note(Struct, frozen=True):
    """What a rater wrote about a row."""

    rater: str
    row: int
    text: str


class HumanResults(Struct, frozen=True):
    """Everything that people's judgements of a run say.

    `agreement` is Krippendorff's alpha (1 perfect, 0 chance), None with fewer than two raters on common duels.
    """

    run: str
    models: tuple[str, ...]
    duels: int
    identical: int
    raters: tuple[Rater, ...]
    pairs: tuple[PairResult, ...]
    agreement: float | None
    strengths: tuple[Strength, ...]
    notes: tuple[Note, ...]


def summarize(run: str, board: Board, judgements: Sequence[Judgement]) -> HumanResults:
    """The results; strengths only where there are more than two models.

    Raises MissingDependencyError without the extra `compare`.
    """
    by_pair: dict[tuple[str, str], list[Judgement]] = defaultdict(list)
    by_rater: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        by_pair[judgement.first, judgement.second].append(judgement)
        by_rater[judgement.rater].append(judgement)
    return HumanResults(
        run=run,
        models=board.models,
        duels=len(board.duels),
        identical=board.identical,
        raters=tuple(
            Rater(name, len(made), float(np.median([each.seconds for each in made]))) for name, made in by_rater.items()
        ),
        pairs=tuple(_pair(*models, made) for models, made in sorted(by_pair.items(), reverse=True)),
        agreement=agreement(judgements),
        strengths=strengths(board.models, judgements) if len(board.models) > 2 and judgements else (),
        notes=tuple(Note(each.rater, each.row, each.note) for each in judgements if each.note),
    )


def agreement(judgements: Sequence[Judgement]) -> float | None:
    """Krippendorff's alpha of the raters' choices (nominal), None where no two raters judged the same duel."""
    try:
        import krippendorff
    except ImportError as error:
        raise _missing() from error
    counts: dict[tuple[int, str, str], Counter[str]] = defaultdict(Counter)
    for each in judgements:
        counts[each.row, each.first, each.second][each.choice] += 1
    shared = [[found[choice] for choice in CHOICES] for found in counts.values() if found.total() > 1]
    if not shared:
        return None
    table = np.array(shared)  # (duels, choices): how many raters chose each
    if (table.sum(axis=0) > 0).sum() == 1:
        return 1.0  # everybody chose the same everywhere; alpha is then 0 divided by 0
    return float(krippendorff.alpha(value_counts=table, level_of_measurement="nominal"))


def strengths(models: Sequence[str], judgements: Sequence[Judgement]) -> tuple[Strength, ...]:
    """Every model's Bradley-Terry strength with its 95% bootstrap interval over rows, the strongest first.

    Bradley and Terry (1952), https://doi.org/10.2307/2334029; fitted by choix. A tie is half a win for each, and so is
    both-bad.
    """
    try:
        import choix
    except ImportError as error:
        raise _missing() from error
    index = {model: place for place, model in enumerate(models)}
    rows = sorted({each.row for each in judgements})
    wins = np.zeros((len(rows), len(models), len(models)))  # (rows, winner, loser)
    for each in judgements:
        first, second, row = index[each.first], index[each.second], rows.index(each.row)
        worth = {"first": 1.0, "second": 0.0}.get(each.choice, 0.5)
        wins[row, first, second] += worth
        wins[row, second, first] += 1 - worth

    def chances(table: Values) -> Values:
        fitted: Values = choix.ilsr_pairwise_dense(table, alpha=PRIOR)
        won: Values = 1 / (1 + np.exp(-(fitted - fitted.mean())))
        return won

    found = chances(wins.sum(axis=0))
    draw = np.random.default_rng(0)
    samples = [chances(wins[draw.integers(len(rows), size=len(rows))].sum(axis=0)) for _ in range(REPLICATES)]
    low, high = np.quantile(samples, [0.025, 0.975], axis=0)
    ranked = [
        Strength(model, Estimate(float(found[place]), float(low[place]), float(high[place])))
        for model, place in index.items()
    ]
    return tuple(sorted(ranked, key=lambda strength: -strength.chance.value))


def _pair(first: str, second: str, made: Sequence[Judgement]) -> PairResult:
    counts = Counter(each.choice for each in made)
    decided = counts["first"] + counts["second"]
    return PairResult(
        first=first,
        second=second,
        first_wins=counts["first"],
        second_wins=counts["second"],
        ties=counts["tie"],
        both_bad=counts["both bad"],
        share=wilson(counts["first"], decided) if decided else None,
        p=mcnemar(counts["second"], counts["first"]),  # McNemar's exact test is the sign test of the decided duels
    )


def _missing() -> MissingDependencyError:
    return MissingDependencyError("human evaluation needs krippendorff and choix: pip install 'tunesmith[compare]'")
