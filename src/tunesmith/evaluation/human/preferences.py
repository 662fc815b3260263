"""People's judgements as preference pairs, ready for the `dpo` objective.

A duel becomes a pair when more raters preferred one reply than the other; ties and both-bad teach nothing and are left
out. The prompt keeps its turns where the evaluated file is still there.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.prompting import shown_prompt
from tunesmith.dataset.read import load
from tunesmith.dataset.write import write
from tunesmith.errors import DataError
from tunesmith.evaluation.human.duels import Board, Duel
from tunesmith.evaluation.human.store import Judgement


def preference_pairs(board: Board, judgements: Sequence[Judgement]) -> list[Conversation]:
    """The pairs as rows, by row."""
    votes: dict[tuple[int, str, str], Counter[str]] = defaultdict(Counter)
    for each in judgements:
        votes[each.row, each.first, each.second][each.choice] += 1
    prompts = _prompts(board.data)
    pairs = []
    for duel in sorted(board.duels, key=lambda duel: duel.row):
        found = votes[duel.row, duel.first, duel.second]
        if found["first"] != found["second"]:
            pairs.append(_pair(duel, found["first"] > found["second"], prompts))
    return pairs


def export_pairs(path: Path, board: Board, judgements: Sequence[Judgement]) -> int:
    """Write the pairs as JSONL (`prompt`, `chosen`, `rejected`) and return how many there are.

    Raises DataError when nobody preferred anything yet, StorageError.
    """
    pairs = preference_pairs(board, judgements)
    if not pairs:
        raise DataError(f"{path}: no preferences to export yet; judge some pairs first: tunesmith compare RUN")
    return write(path, pairs, format="preference")


def _pair(duel: Duel, first_wins: bool, prompts: dict[int, tuple[Message, ...]]) -> Conversation:
    prompt = prompts.get(duel.row, ())
    if shown_prompt(prompt) != duel.prompt:  # the file is gone, or no longer what was evaluated
        prompt = (Message("user", duel.prompt),)
    replies = (duel.first_reply, duel.second_reply)
    chosen, rejected = replies if first_wins else replies[::-1]
    return Conversation(
        messages=(*prompt, Message("assistant", chosen)),
        completion_start=len(prompt),
        rejected=(Message("assistant", rejected),),
    )


def _prompts(data: str) -> dict[int, tuple[Message, ...]]:
    try:
        return {index: row.prompt for index, row in enumerate(load(data))}
    except DataError:
        return {}
