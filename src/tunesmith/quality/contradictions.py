"""Rows that ask the same and answer differently: whichever the model learns, it unlearns from the other.

What is the same question, `questions` says. "Materially different" is looser than unequal: two wordings of an answer
agree, two labels, two JSON values or two numbers do not.
"""

import itertools
import json
import re
import string
from dataclasses import dataclass

from tunesmith.dataset.shingles import normalize
from tunesmith.quality.check import SHOWN_ROWS, Profile, RowTexts, clean_command, quote, share
from tunesmith.quality.questions import NEGATIONS, WORD, same_question, short_questions_alike, words_of
from tunesmith.quality.report import Finding, RowNote

LABEL_WORDS = 3
"""An answer of so few words is a label or a value: any difference but case and punctuation is material."""

SHORT_CHARACTERS = 200
"""In answers as short, one name or "not" decides."""

ALIKE_WORDS = 0.5
"""Longer answers that share less of their words than this (Jaccard) say different things; `_plainly_alike` knows it."""

FAIL_SHARE = 0.02
"""Above this share of contradicting rows, the set teaches guessing."""

NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two row indices, `left < right`, that ask the same and answer differently."""

    left: int
    right: int


def contradicting_rows(rows: RowTexts) -> tuple[Contradiction, ...]:
    """All pairs of rows with the same question in the same context and materially different outputs.

    Of rows that ask literally the same, each is compared with the first.
    """
    near = rows.near_duplicate_inputs
    alike = {(left, right): exact for (left, right, _), exact in zip(near, near.exact.tolist(), strict=True)}
    alike |= dict.fromkeys(short_questions_alike(rows.inputs), True)
    return tuple(
        Contradiction(left, right)
        for (left, right), surely in sorted(alike.items())
        if rows.contexts[left] == rows.contexts[right]
        and outputs_differ(answer(rows, left), answer(rows, right))  # far cheaper than comparing the questions
        and (surely or same_question(rows.inputs[left], rows.inputs[right]))
    )


def contradictions(profile: Profile) -> tuple[Finding, ...]:
    """One finding; its rows are pairs, each listed at its first row; `count` is the rows involved."""
    rows = profile.rows
    pairs = contradicting_rows(rows)
    if not pairs:
        return (Finding("contradictions", "pass", "no two rows answer the same input differently"),)
    involved = {index for pair in pairs for index in (pair.left, pair.right)}
    notes = (
        RowNote(
            rows.where(pair.left),
            f"answers {quote(answer(rows, pair.left), 60)!r}, but {rows.where(pair.right)} "
            f"{quote(answer(rows, pair.right), 60)!r} to: {quote(rows.inputs[pair.left], 80)}",
        )
        for pair in pairs[:SHOWN_ROWS]
    )
    return (
        Finding(
            "contradictions",
            "fail" if len(involved) > FAIL_SHARE * len(rows) else "warn",
            f"{len(pairs):,} pair{'s' if len(pairs) > 1 else ''} of rows ({share(len(involved), len(rows))}) "
            "with the same input and different answers",
            count=len(involved),
            rows=tuple(notes),
            mend="decide which answer is right and correct the other; or drop both",
            command=clean_command(profile.files, "--drop-contradictions"),
            facts={"pairs": len(pairs), "share": round(len(involved) / len(rows), 4)},
        ),
    )


def answer(rows: RowTexts, index: int) -> str:
    """What a row answers: its label where the file names one, else its output."""
    return rows.labels[index] or rows.outputs[index]


def outputs_differ(one: str, other: str) -> bool:
    """Whether two answers to one question materially differ: as labels, JSON values, statements, or texts."""
    as_written = one, other
    one, other = normalize(one), normalize(other)
    if one == other:
        return False
    if one[:1] in "{[" and other[:1] in "{[":
        first, second = _json(one), _json(other)
        if first is not None and second is not None:
            return first != second
    numbers, other_numbers = _numbers(one), _numbers(other)
    other_facts = _exclude(numbers, other_numbers) or (
        max(len(one), len(other)) <= SHORT_CHARACTERS
        and (_negates(one) != _negates(other) or _exclude(*map(_names, as_written)))
    )
    if _plainly_alike(one, other):
        return other_facts
    words, other_words = words_of(one), words_of(other)
    if min(len(words), len(other_words)) <= LABEL_WORDS:
        return words != other_words
    if other_facts or {words[0], other_words[0]} == {"yes", "no"}:
        return True
    shared, all_words = set(words) & set(other_words), set(words) | set(other_words)
    return len(shared) < ALIKE_WORDS * len(all_words)


def _exclude(some: set[str], others: set[str]) -> bool:
    """Whether each of two sets says something that the other does not."""
    return not (some <= others or others <= some)


def _negates(text: str) -> bool:
    return any(word in NEGATIONS or word.endswith(("n't", "n\u2019t")) for word in WORD.findall(text))


def _names(text: str) -> set[str]:
    """The capitalized words within sentences; none where capitals mark no names (upper case, titles)."""
    words = text.split()
    names = {
        word.strip(string.punctuation).casefold()
        for before, word in itertools.pairwise(words)
        if word[0].isupper() and before[-1] not in ".!?:"
    }
    return names if len(names) <= len(words) / 3 else set()


def _plainly_alike(one: str, other: str) -> bool:
    """Whether two texts begin alike and share half of their words: seen without telling all words apart, if at all."""
    words, other_words = one.split(), other.split()
    if not words or words[:1] != other_words[:1] or not words[0][0].isalnum():
        return False
    apart = set(words) ^ set(other_words)
    shared = sum(map(str.isalnum, set(words) - apart))  # each of these is one word, what is apart may hold several
    return shared > LABEL_WORDS and shared >= len(set(WORD.findall(" ".join(apart))))


def _numbers(text: str) -> set[str]:
    # Looking for each digit takes a microsecond, the pattern thirty.
    if text.isascii() and not any(map(text.__contains__, string.digits)):
        return set()
    return set(NUMBER.findall(text))


def _json(text: str) -> object | None:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value
