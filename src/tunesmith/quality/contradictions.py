"""Rows that ask the same and answer differently: whichever the model learns, it unlearns from the other.

"The same question" is stricter than a near-duplicate: one that differs in a number, a name, a negation or a content
word asks something else. "Materially different" is looser than unequal: two wordings of an answer agree, two labels,
two JSON values or two numbers do not.
"""

import difflib
import itertools
import json
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.dataset.neardup import first_with_same
from tunesmith.dataset.shingles import normalize
from tunesmith.quality.check import SHOWN_ROWS, Profile, RowTexts, clean_command, quote, share
from tunesmith.quality.report import Finding, RowNote

LABEL_WORDS = 3
"""An answer of so few words is a label or a value: any difference but case and punctuation is material."""

SHORT_CHARACTERS = 200
"""Longer inputs with added fillers are still near-duplicates; in answers as short, one name or "not" decides."""

FEWEST_CONTENT_WORDS = 2
KEYS_AT_ONCE = 1_000

ALIKE_WORDS = 0.5
"""Longer answers that share less of their words than this (Jaccard) say different things; `_plainly_alike` knows it."""

FAIL_SHARE = 0.02
"""Above this share of contradicting rows, the set teaches guessing."""

WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[+*/=<>%$\u20ac\u00a3^&|~-]")
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
NEGATIONS = frozenset("no not never none nor neither cannot".split())  # noqa: SIM905
QUALIFIERS = NEGATIONS | frozenset(
    "without non except from before after only more less least most or".split()  # noqa: SIM905
)
FILLERS = frozenset(
    "a an the please kindly hi hello hey dear thanks thank thx plz pls just so well ok okay um uh now also then really "  # noqa: SIM905
    "very quick quickly there here i i'm im me my we us our you your can could would will shall should do does is are "
    "was were to of for in on at by with and it its it's this that these those some any question tell know help need "
    "want like what what's whats".split()
)
"""Words that may differ between two ways of asking the same."""


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


def short_questions_alike(texts: Sequence[str]) -> set[tuple[int, int]]:
    """Short texts that differ in fillers only, each with the first like it.

    "Hello!" and "Thanks." may be half of such a text's shingles, so that it is no near-duplicate.
    """
    keys = np.empty(len(texts), np.int64)
    for start in range(0, len(texts), KEYS_AT_ONCE):
        chunk = texts[start : start + KEYS_AT_ONCE]
        keys[start : start + len(chunk)] = [_question_key(text) for text in chunk]
    first = first_with_same(keys)
    later = np.flatnonzero((first != np.arange(len(texts))) & (keys != 0))
    return set(zip(first[later].tolist(), later.tolist(), strict=True))


def _question_key(text: str) -> int:
    """A hash of the words of a short text that are no fillers, in order; 0 for a long text and where there are few."""
    if len(text) > SHORT_CHARACTERS:
        return 0
    content = [word for word in WORD.findall(normalize(text)) if word not in FILLERS]
    return hash(tuple(content)) if len(content) >= FEWEST_CONTENT_WORDS else 0


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
            f"{len(pairs):,} pairs of rows ({share(len(involved), len(rows))}) answer the same input differently",
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
    words, other_words = _words(one, numbers), _words(other, other_numbers)
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


def same_question(one: str, other: str) -> bool:
    """Whether two nearly equal inputs ask the same: they differ in fillers, added detail or typing errors at most."""
    words, other_words = _words(one, _numbers(one)), _words(other, _numbers(other))
    matcher = difflib.SequenceMatcher(
        None, [word.casefold() for word in words], [word.casefold() for word in other_words], autojunk=False
    )
    return all(
        _harmless(words[left:left_end], other_words[right:right_end])
        for operation, left, left_end, right, right_end in matcher.get_opcodes()
        if operation != "equal"
    )


def _harmless(words: Sequence[str], others: Sequence[str]) -> bool:
    """Whether `words` may stand where the other question has `others`: fillers, a typing error, or detail added."""
    if len(words) == len(others) and all(map(_is_typo, words, others)):
        return True
    content = [word for word in words if word.casefold() not in FILLERS]
    other_content = [word for word in others if word.casefold() not in FILLERS]
    if content and other_content:
        return len(content) == len(other_content) and all(map(_is_typo, content, other_content))
    if content or other_content:
        added_only = not words or not others
        return added_only and not any(map(_is_decisive, content or other_content))
    return True


def _is_decisive(word: str) -> bool:
    """A number, a name, a qualifier or an operator: added or left out, it changes the question."""
    folded = word.casefold()
    return (
        word[:1].isupper()
        or not word.isascii()
        or any(character.isdigit() for character in word)
        or folded in QUALIFIERS
        or folded.endswith(("n't", "n\u2019t"))
        or not folded[0].isalnum()
    )


def _is_typo(one: str, other: str) -> bool:
    """Whether two words are one word misspelt: one letter more, less or other, or two neighbours swapped."""
    if min(len(one), len(other)) < 4 or not (one.isalpha() and other.isalpha()):
        return False
    one, other = one.casefold(), other.casefold()
    start = next(
        (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    rest, other_rest = one[start:], other[start:]
    return (
        rest[1:] == other_rest[1:]
        or rest[1:] == other_rest
        or rest == other_rest[1:]
        or (rest[:2] == other_rest[1::-1] and rest[2:] == other_rest[2:])
    )


def _numbers(text: str) -> set[str]:
    # Looking for each digit takes a microsecond, the pattern thirty.
    if text.isascii() and not any(map(text.__contains__, string.digits)):
        return set()
    return set(NUMBER.findall(text))


def _words(text: str, numbers: set[str]) -> list[str]:
    words = WORD.findall(text)
    # A dash is a minus only where there are numbers.
    return words if numbers or "-" not in words else [word for word in words if word != "-"]


def _json(text: str) -> object | None:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value
