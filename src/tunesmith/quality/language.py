"""The language of a text, where it can be told for sure.

Common English is recognized by its function words, which costs a microsecond; anything else goes to py3langid (a
naive Bayes model over byte n-grams, 200 microseconds), whose answer counts only when it is near certain.
"""

import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

FEWEST_CHARACTERS = 40
COMPARED_CHARACTERS = 200
"""Shorter texts are too little evidence; longer ones are judged by their beginning."""

FEWEST_WORDS = 6
"""A list of names or numbers is in no language."""

CERTAIN = 0.99

ENGLISH = frozenset(
    ("the", "and", "is", "are", "was", "were", "of", "to", "that", "it", "you", "for", "with", "this", "have", "has",
     "not", "can", "your", "from", "they", "what", "how", "which", "would", "there", "their", "be", "my", "does", "or",
     "but", "who", "when", "where", "about", "into", "than", "then", "them", "these", "some", "could", "should",
     "been", "because", "people", "out", "many", "more", "other", "each", "she", "him", "his")
)  # fmt: skip
WITH_THE = (" and ", " of ", " to ", " is ", " for ", " you ")
"""With "the", which no other language has, one of these is proof enough, and far cheaper to see."""

NOT_PROSE = re.compile(r"[{}<>=\\|_/`]|\d{3,}")
WORD = re.compile(r"[^\W\d_]+")


def language(text: str) -> str | None:
    """The ISO 639-1 code of `text`'s language, or None where it is too short, no prose, or not certain."""
    text = text[:COMPARED_CHARACTERS].strip()
    if len(text) < FEWEST_CHARACTERS:
        return None
    if " the " in text:
        for word in WITH_THE:  # a loop: `any` over a generator costs as much again
            if word in text:
                return "en"
    words = text.lower().split()
    if len(ENGLISH.intersection(words)) >= 3:
        return "en"
    if len(NOT_PROSE.findall(text)) > 2 or len(WORD.findall(text)) < (FEWEST_WORDS if text.isascii() else 1):
        return None
    name, probability = _identifier().classify(text)
    return str(name) if probability >= CERTAIN and name != "zxx" else None


@functools.cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
