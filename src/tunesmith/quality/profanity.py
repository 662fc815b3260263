"""Profane words in the outputs, when asked for: the word lists of glin-profanity (MIT; 24 languages), as whole words.

Only the lists are used: an automaton finds all words of English and of the output's own language in microseconds, where
the library's filter takes milliseconds for the spellings that people disguise words with. A list knows no context: it
counts "sex education", and it misses what is hateful without a word on it.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ahocorasick_rs import AhoCorasick, Implementation, MatchKind

from tunesmith.errors import MissingDependencyError
from tunesmith.quality.check import Flags, Profile, Row, counted, quote
from tunesmith.quality.language import language
from tunesmith.quality.report import Finding

LISTS = {
    "ar": "arabic", "cs": "czech", "da": "danish", "de": "german", "en": "english", "eo": "esperanto", "es": "spanish",
    "fa": "persian", "fi": "finnish", "fr": "french", "hi": "hindi", "hu": "hungarian", "it": "italian",
    "ja": "japanese", "ko": "korean", "nb": "norwegian", "nl": "dutch", "no": "norwegian", "pl": "polish",
    "pt": "portuguese", "ru": "russian", "sv": "swedish", "th": "thai", "tr": "turkish", "zh": "chinese",
}  # fmt: skip
"""ISO 639-1 code → the list."""

WITHOUT_SPACES = frozenset({"ja", "ko", "th", "zh"})
"""Languages whose words may begin and end within a run of letters."""

AROUND = 40
"""Characters shown on either side of a word."""


@dataclass
class ObservedProfanity:
    """The profane outputs of a batch, and how many hold each word."""

    flags: Flags = field(default_factory=Flags)
    words: Counter[str] = field(default_factory=Counter)


class Profanity:
    """A `RowCheck`: outputs with profane words."""

    def __init__(self) -> None:
        _automaton("en")  # before the pass: a missing extra is told at once, and forked workers inherit the list
        self._flags = Flags()
        self._words: Counter[str] = Counter()

    def observe(self, rows: Sequence[Row]) -> ObservedProfanity:
        """Look at each output of a batch."""
        observed = ObservedProfanity()
        for row in rows:
            found = profane_words(row.output)
            if found:
                start = max(min(found.values()) - AROUND, 0)
                observed.flags.flag(row, quote(row.output[start : start + 3 * AROUND]))
                observed.words.update(found.keys())
        return observed

    def add(self, observed: ObservedProfanity) -> None:
        """Gather one batch."""
        self._flags.extend(observed.flags)
        self._words.update(observed.words)

    def findings(self, profile: Profile) -> tuple[Finding, ...]:
        """A warning with the most frequent words; a person judges what they mean."""
        if not self._flags.count:
            return (Finding("outputs: profanity", "pass", "no profane word in the outputs"),)
        most = ", ".join(f"{word} {count:,}" for word, count in self._words.most_common(5))
        return (
            Finding(
                "outputs: profanity",
                "warn",
                counted(self._flags.count, f"hold profane words: {most}", noun="output", whole=len(profile.rows)),
                count=self._flags.count,
                rows=self._flags.notes(),
                mend="read them, and rewrite or drop what the model should not say",
            ),
        )


def profane_words(text: str) -> dict[str, int]:
    """The profane words in `text` and the offset of the first of each; of English and of the text's own language."""
    lower = text.lower() if text.isascii() else text.lower().encode("utf-8", "replace").decode()  # no lone surrogates
    found: dict[str, int] = {}
    for code in {"en", language(text) or "en"} & LISTS.keys():
        automaton, words = _automaton(code)
        for word, start, end in automaton.find_matches_as_indexes(lower, overlapping=True):
            if code in WITHOUT_SPACES or not (lower[start - 1 : start].isalnum() or lower[end : end + 1].isalnum()):
                found.setdefault(words[word], start)
    return found


@functools.cache
def _automaton(code: str) -> tuple[AhoCorasick, tuple[str, ...]]:
    try:
        from glin_profanity.data.dictionary import dictionary
    except ImportError as error:
        raise MissingDependencyError("--profanity needs word lists: pip install 'tunesmith[profanity]'") from error
    words = tuple(sorted({word.lower() for word in dictionary.get_words(LISTS[code])}))
    return AhoCorasick(words, matchkind=MatchKind.Standard, implementation=Implementation.ContiguousNFA), words
