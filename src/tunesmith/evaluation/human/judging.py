"""A rater's turn: which pair comes next, on which side each reply stands, and what choosing a side means."""

from dataclasses import dataclass

from tunesmith.evaluation.human.duels import Board, Duel, first_stands_left, order_for
from tunesmith.evaluation.human.store import Choice, Judgement, Store

LONGEST_NOTE = 2000

LONGEST_SECONDS = 3600.0
"""A rater who took longer went away."""


@dataclass(frozen=True)
class Turn:
    """A duel as a rater sees it; `chosen` (left, right, tie or bad) and `note` are what they said before."""

    duel: Duel
    left: str
    right: str
    chosen: str
    note: str


@dataclass(frozen=True)
class Progress:
    """How far a rater is: `turn` is None when all is judged, `back` the key of the pair judged last before it."""

    judged: int
    duels: int
    turn: Turn | None
    back: str | None


def progress(board: Board, store: Store, rater: str, asked: str | None = None) -> Progress:
    """The rater's next pair, or the one with the key `asked`."""
    made = _made(board, store, rater)
    order = order_for(rater, board, store.seed)
    waiting = [duel for duel in order if duel.key not in made]
    duel = next((duel for duel in order if duel.key == asked), waiting[0] if waiting else None)
    before = [each for each in order if each.key in made and each != duel]
    latest = max(before, key=lambda each: made[each.key].judged_at, default=None)
    return Progress(
        judged=len(order) - len(waiting),
        duels=len(order),
        turn=None if duel is None else _turn(rater, duel, store.seed, made.get(duel.key)),
        back=None if latest is None else latest.key,
    )


def judge(board: Board, store: Store, rater: str, *, pair: str, side: str, note: str, seconds: str) -> bool:
    """Keep what a rater chose: left, right, tie or bad. False when there is no such pair or choice."""
    duel = next((duel for duel in board.duels if duel.key == pair), None)
    if duel is None:
        return False
    left: Choice = "first" if first_stands_left(rater, duel, store.seed) else "second"
    right: Choice = "second" if left == "first" else "first"
    choices: dict[str, Choice] = {"left": left, "right": right, "tie": "tie", "bad": "both bad"}
    if side not in choices:
        return False
    store.record(rater, duel, choices[side], note[:LONGEST_NOTE], _seconds(seconds))
    return True


def _made(board: Board, store: Store, rater: str) -> dict[str, Judgement]:
    """The rater's judgements by duel."""
    keys = {(duel.row, duel.first, duel.second): duel.key for duel in board.duels}
    found = ((keys.get((each.row, each.first, each.second)), each) for each in store.judgements(rater))
    return {key: each for key, each in found if key is not None}


def _turn(rater: str, duel: Duel, seed: str, made: Judgement | None) -> Turn:
    replies, sides = (duel.first_reply, duel.second_reply), ("left", "right")
    if not first_stands_left(rater, duel, seed):
        replies, sides = replies[::-1], sides[::-1]
    said = dict(zip(("first", "second", "tie", "both bad"), (*sides, "tie", "bad"), strict=True))
    return Turn(duel, *replies, "" if made is None else said[made.choice], "" if made is None else made.note)


def _seconds(given: str) -> float:
    try:
        return min(max(float(given), 0.0), LONGEST_SECONDS)
    except ValueError:
        return 0.0
