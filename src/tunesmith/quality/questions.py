"""Whether two inputs ask the same, in the words that people vary: courtesies, contractions, synonyms, typing errors.

"The same question" is stricter than a near-duplicate: one that differs in a number, a name, a negation or a content
word asks something else. The synonyms are the few that hardly any context tells apart; another sentence that says the
same is for an embedding model to find.
"""

import difflib
import functools
import re
from collections.abc import Sequence

import numpy as np

from tunesmith.dataset.neardup import first_with_same
from tunesmith.dataset.shingles import normalize

SHORT_CHARACTERS = 200
"""Longer inputs with added fillers are still near-duplicates."""

FEWEST_CONTENT_WORDS = 2
KEYS_AT_ONCE = 1_000

WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[+*/=<>%$\u20ac\u00a3^&|~-]")
NEGATIONS = frozenset("no not never none nor neither cannot".split())  # noqa: SIM905
QUALIFIERS = NEGATIONS | frozenset(
    "without non except from before after only more less least most or".split()  # noqa: SIM905
)
FILLERS = frozenset(
    "a an the please kindly hi hello hey dear thanks thank thx plz pls just so well ok okay um uh now also then really "  # noqa: SIM905
    "very quick quickly there here i im me my we us our you your can could would will shall should do does did is "
    "are was were am be been has have had to of for in on at by with and it its this that these those some any "
    "question tell know help need want like what whats team everyone currently maybe simply actually somehow someone "
    "bitte hallo danke bonjour merci svp hola gracias ciao grazie ol\u00e1 obrigado hoi bedankt".split()
)
"""Words that may differ between two ways of asking the same."""

COURTESIES = re.compile(
    r"\bgood (?:morning|afternoon|evening|day)\b|\bthank(?:s| you)(?: (?:very much|so much|a lot))?(?: in advance)?\b",
    re.IGNORECASE,
)
"""What opens and closes a message, of words that elsewhere are content."""

ENDINGS = ("'d", "'ll", "'re", "'ve", "'m", "'s")
"""What stands for a filler ("I'd" for "I would"); "n't" stands for "not"."""

SYNONYMS = {
    word: group.split()[0]
    for group in (
        "buy purchase", "bought purchased", "buying purchasing", "cancel terminate", "canceled cancelled terminated",
        "canceling cancelling terminating", "help assist", "start begin commence", "started began commenced",
        "finish complete", "finished completed", "repair fix mend", "repaired fixed mended", "choose select",
        "chose selected", "receive obtain", "received obtained", "send ship", "sent shipped",
        "change modify alter switch", "changed modified altered switched", "verify confirm", "verified confirmed",
        "allow permit", "allowed permitted", "happen occur", "happened occurred", "try attempt", "tried attempted",
        "find locate", "answer reply", "money cash", "delivery shipping", "delete remove erase",
        "deleted removed erased", "working functioning", "billed charged", "moved relocated", "asking inquiring",
        "tell inform", "stopped quit", "problem issue trouble", "parcel package", "photo picture image",
        "manual handbook", "employer company", "customer client", "replacement substitute", "film movie",
        "car automobile", "physician doctor", "holiday vacation", "flat apartment", "kid child",
        "cell mobile cellphone", "big large", "small little", "fast rapid", "wrong incorrect",
        "broken damaged defective", "expensive costly", "cheap inexpensive", "hard difficult", "easy simple",
        "short brief", "ill sick", "whole entire", "like want",
    )
    for word in group.split()
}  # fmt: skip
"""Word → the one that stands for its group."""


def short_questions_alike(texts: Sequence[str]) -> set[tuple[int, int]]:
    """Short texts that differ in fillers and synonyms only, each with the first like it.

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
    words = map(plain_word, WORD.findall(_asked(normalize(text))))
    content = [word for word in words if word not in FILLERS]
    return hash(tuple(content)) if len(content) >= FEWEST_CONTENT_WORDS else 0


def same_question(one: str, other: str) -> bool:
    """Whether two nearly equal inputs ask the same: they differ in fillers, added detail or typing errors at most."""
    words, other_words = words_of(_asked(one)), words_of(_asked(other))
    plain, other_plain = list(map(plain_word, words)), list(map(plain_word, other_words))
    matcher = difflib.SequenceMatcher(None, plain, other_plain, autojunk=False)
    return all(
        _harmless(words[left:left_end], other_words[right:right_end])
        for operation, left, left_end, right, right_end in matcher.get_opcodes()
        if operation != "equal"
    )


def words_of(text: str) -> list[str]:
    """The words and operators of `text`; a dash is a minus only where there are numbers."""
    words = WORD.findall(text)
    return words if "-" not in words or any(map(str.isdigit, text)) else [word for word in words if word != "-"]


@functools.lru_cache(maxsize=65_536)
def plain_word(word: str) -> str:
    """The word that stands for `word` among those that ask the same; case, contraction and plural are left out."""
    plain = word.casefold().replace("\u2019", "'")
    if plain.endswith("n't") or plain == "cannot":
        return "not"
    for ending in ENDINGS:
        plain = plain.removesuffix(ending)
    if plain in FILLERS:
        return plain
    if len(plain) > 3 and plain.endswith("s") and not plain.endswith(("ss", "us", "is")):
        plain = plain[:-1]
    return SYNONYMS.get(plain, plain)


def _asked(text: str) -> str:
    """`text` without courtesies; seeing whether there are any is a tenth of the cost of looking for them."""
    return COURTESIES.sub("", text) if "ood " in text or "ank" in text else text


def _harmless(words: Sequence[str], others: Sequence[str]) -> bool:
    """Whether `words` may stand where the other question has `others`: fillers, a typing error, or detail added."""
    if len(words) == len(others) and all(map(_is_typo, words, others)):
        return True
    content = [word for word in words if plain_word(word) not in FILLERS]
    other_content = [word for word in others if plain_word(word) not in FILLERS]
    if content and other_content:
        return len(content) == len(other_content) and all(map(_asks_the_same, content, other_content))
    if content or other_content:
        added_only = not words or not others
        return added_only and not any(map(_is_decisive, content or other_content))
    return True


def _asks_the_same(one: str, other: str) -> bool:
    return plain_word(one) == plain_word(other) or _is_typo(one, other)


def _is_decisive(word: str) -> bool:
    """A number, a name, a qualifier or an operator: added or left out, it changes the question."""
    plain = plain_word(word)
    return (
        word[:1].isupper()
        or not word.isascii()
        or any(character.isdigit() for character in word)
        or plain in QUALIFIERS
        or not plain[0].isalnum()
    )


LETTER_REPLACED_FROM = 6
"""Shorter words that differ in a letter ("boots" and "books") are two words more often than one misspelt."""


def _is_typo(one: str, other: str) -> bool:
    """Whether two words are one word misspelt: one letter more, less or other, or two neighbours swapped."""
    if min(len(one), len(other)) < 4 or not (one.isalpha() and other.isalpha()):
        return False
    one, other = one.casefold(), other.casefold()
    start = next(
        (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    rest, other_rest = one[start:], other[start:]
    if start == 0 or len(one) == len(other):
        replaced = start > 0 and len(one) >= LETTER_REPLACED_FROM and rest[1:] == other_rest[1:]
        return replaced or (rest[:2] == other_rest[1::-1] and rest[2:] == other_rest[2:])
    return rest[1:] == other_rest or rest == other_rest[1:]
