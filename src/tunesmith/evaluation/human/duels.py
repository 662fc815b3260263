"""What people compare: two models' replies to one prompt. Which is which, and in what order, only this module knows.

Replies come from the runs' `evaluation.json`, so no model is loaded. Two replies that are the same word for word are
left out: there is nothing to judge. The order of duels, and which reply stands left, follow from a secret seed, the
rater and the duel, so that going on later shows the same, and no rater can tell a model by its place.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from tunesmith.errors import RunError
from tunesmith.evaluation.metrics import normalized
from tunesmith.evaluation.result import Evaluation
from tunesmith.run_folder import RunFolder

BASE, PROMPTED, TUNED = "base", "prompted base", "tuned"


@dataclass(frozen=True)
class Duel:
    """Two models' replies to one row; `key` names it without telling the models."""

    key: str
    row: int
    prompt: str
    reference: str
    first: str
    second: str
    first_reply: str
    second_reply: str

    @property
    def content(self) -> str:
        """A digest of the prompt and the two replies."""
        return _hash(self.prompt, self.first_reply, self.second_reply)


@dataclass(frozen=True)
class Board:
    """All duels, the models in them, and how many pairs of replies were left out for being the same.

    `data` is the file whose rows were answered.
    """

    data: str
    models: tuple[str, ...]
    duels: tuple[Duel, ...]
    identical: int


def make_board(runs: Sequence[RunFolder]) -> Board:
    """The duels between the first run's models and the other runs' tuned models, on the rows all of them answered.

    Raises RunError when a run has not been evaluated or the runs share no rows.
    """
    evaluations = [_evaluation(run) for run in runs]
    others = _names(runs[1:])
    replies = _replies(others, evaluations)
    prompted = any(sample.prompted is not None for sample in evaluations[0].samples)
    names = [BASE, *([PROMPTED] if prompted else []), TUNED, *others]
    shared = [key for key, said in replies.items() if len(said) == len(names)]
    if not shared:
        raise RunError(
            f"{runs[0].root}: the runs answered no common rows; evaluate them on the same file (--data FILE)"
        )
    rows = {(sample.prompt, sample.reference): sample.row for sample in evaluations[0].samples}
    duels, identical = [], 0
    for key in shared:
        for earlier, later in itertools.combinations(names, 2):
            said = replies[key]
            if normalized(said[earlier]) == normalized(said[later]):
                identical += 1
                continue
            duels.append(
                Duel(
                    key=_hash(str(rows[key]), earlier, later)[:12],
                    row=rows[key],
                    prompt=key[0],
                    reference=key[1],
                    first=later,
                    second=earlier,
                    first_reply=said[later],
                    second_reply=said[earlier],
                )
            )
    return Board(evaluations[0].data, tuple(names), tuple(duels), identical)


def order_for(rater: str, board: Board, seed: str) -> list[Duel]:
    """The duels in the order in which `rater` sees them."""
    return sorted(board.duels, key=lambda duel: _hash(seed, rater, duel.key, "order"))


def first_stands_left(rater: str, duel: Duel, seed: str) -> bool:
    """Whether `rater` sees the duel's first reply on the left: a fair coin for each rater and duel."""
    return int(_hash(seed, rater, duel.key, "side")[:2], 16) % 2 == 0


def _evaluation(run: RunFolder) -> Evaluation:
    if not run.evaluation.is_file():
        raise RunError(f"{run.root}: not evaluated yet; first: tunesmith evaluate {run.root}")
    try:
        evaluation = msgspec.json.decode(run.evaluation.read_bytes(), type=Evaluation)
    except msgspec.DecodeError as error:
        raise RunError(f"{run.evaluation}: cannot be read ({error}); evaluate the run again") from error
    if not evaluation.samples:
        raise RunError(f"{run.root}: its evaluation holds no replies (plain text has no prompts); nothing to compare")
    return evaluation


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """What the other runs' models are called: their folder's name, numbered where it is taken."""
    names = [BASE, PROMPTED, TUNED]
    for run in runs:
        folder = run.root.resolve().name
        candidates = itertools.chain([folder], (f"{folder} {number}" for number in itertools.count(2)))
        names.append(next(name for name in candidates if name not in names))
    return names[3:]


def _replies(others: Sequence[str], evaluations: Sequence[Evaluation]) -> dict[tuple[str, str], dict[str, str]]:
    """Per row (its prompt and reference), what each model said."""
    replies: dict[tuple[str, str], dict[str, str]] = {}
    for sample in evaluations[0].samples:
        said = replies.setdefault((sample.prompt, sample.reference), {})
        said[BASE] = sample.base
        if sample.prompted is not None:
            said[PROMPTED] = sample.prompted
        said[TUNED] = sample.tuned
    for name, evaluation in zip(others, evaluations[1:], strict=True):
        for sample in evaluation.samples:
            if (sample.prompt, sample.reference) in replies:
                replies[sample.prompt, sample.reference][name] = sample.tuned
    return replies


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
