"""The language of a text, where it can be told for sure.

Common English is recognized at sight by its function words, which costs a microsecond; anything else goes to py3langid
(a naive Bayes model over byte n-grams), whose answer counts only when it is near certain. The model takes 0.1
milliseconds a text and half a second to load, so who has few texts in doubt gathers them for one process.
"""

import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

FEWEST_CHARACTERS = 40
COMPARED_CHARACTERS = 200
"""Shorter texts are too little evidence; longer ones are judged by their beginning."""

SEEN_CHARACTERS = 800
"""Where the beginning is not plainly English, so much of a text is looked at before the model is asked."""

FEWEST_WORDS = 6
"""A list of names or numbers is in no language."""

CERTAIN = 0.99

ENGLISH = frozenset(
    ("the", "and", "is", "are", "was", "were", "of", "to", "that", "it", "you", "for", "with", "this", "have", "has",
     "not", "can", "your", "from", "they", "what", "how", "which", "would", "there", "their", "be", "my", "does", "or",
     "but", "who", "when", "where", "about", "into", "than", "then", "them", "these", "some", "could", "should",
     "been", "because", "people", "out", "many", "more", "other", "each", "she", "him", "his",
     "he", "we", "by", "at", "as", "if", "will", "its", "our")
)  # fmt: skip
FEWEST_ENGLISH = 3
"""So many different function words show English where there is no `OTHER`."""

OTHER = frozenset(
    ("het", "een", "de", "van", "niet", "en", "der", "und", "das", "ist", "nicht", "ein", "eine", "mit", "les", "des",
     "est", "une", "dans", "et", "el", "los", "las", "una", "por", "que", "il", "che", "di", "della", "um", "uma",
     "det", "og", "och", "som", "er", "att", "ikke", "inte", "nie", "jest", "yang", "ang")
)  # fmt: skip
"""Function words of languages that share words with English ("is", "of" and "was" are Dutch, "for" and "have" Danish)
or quote its titles; rare in English."""

WITH_THE = (" and ", " you ", " to ", " that ", " for ", " with ", " are ")
"""Beside "the", one of these is in most English texts, and far cheaper to see."""

NOT_PROSE = re.compile(r"[{}<>=\\|_/`]|\d{3,}")
WORD = re.compile(r"[^\W\d_]+")


def language(text: str) -> str | None:
    """The ISO 639-1 code of `text`'s language, or None where it is too short, no prose, or not certain."""
    told = at_sight(text)
    if told is not None:
        return told or None
    name, probability = _identifier().classify(compared(text))
    return str(name) if probability >= CERTAIN and name != "zxx" else None


def at_sight(text: str) -> str | None:
    """The language of `text` without the model: "en", "" where none can be told, None where the model must say."""
    beginning = compared(text)
    if len(beginning) < FEWEST_CHARACTERS:
        return ""
    if _is_english(beginning) or (len(text) > COMPARED_CHARACTERS and _is_english(text[:SEEN_CHARACTERS])):
        return "en"
    fewest_words = FEWEST_WORDS if beginning.isascii() else 1
    if len(NOT_PROSE.findall(beginning)) > 2 or len(WORD.findall(beginning)) < fewest_words:
        return ""
    return None


def _is_english(text: str) -> bool:
    words = text.lower().split()
    return len(ENGLISH.intersection(words)) >= FEWEST_ENGLISH and OTHER.isdisjoint(words)


def is_plainly_english(text: str) -> bool:
    """A shortcut that most English texts take, and a few that quote an English title."""
    text = compared(text)
    if " the " in text:
        for word in WITH_THE:  # a loop: `any` over a generator costs as much again
            if word in text:
                return True
    return False


def compared(text: str) -> str:
    """The part of `text` by which its language is told."""
    return text[:COMPARED_CHARACTERS].strip()


@functools.cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
