"""Knowledge or behaviour: what kind of thing the model gets wrong, read off its misses.

Fine-tuning teaches form well and facts badly, retrieval the reverse, so the decision hangs on this. A fact is something
specific in the reference (a number, a name, an identifier) that the prompt does not say, nor gives what it is made of,
and that the task's own vocabulary does not hold. A miss that lacks facts is missing knowledge; a miss that had all it
needed is behaviour: broken form, or the right form with the wrong content. Lexical, so it undercounts facts that are
said in common words; the measured gain of retrieval over documents stands beside it.
"""

import calendar
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec import Struct

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.prompting import question
from tunesmith.evaluation.metrics import Task, label, parses_as_json
from tunesmith.quality.language import language

CLOSED_SHARE = 0.02
CLOSED_ROWS = 3
"""A word in this share of the training outputs, and in so many of them, is the task's vocabulary and no fact."""

BARE_WORDS = 2
"""An output of at most so many words is an answer and no sentence: its capital letter then says nothing."""

WORKED_OUT = 2
"""Numbers in a prompt from which another may be worked out: a sum is no fact to be known."""

CAPITALIZED = 0.5
"""Outputs that write this share of the words within their sentences with a capital do so in all words, not in names."""

NOUNS_CAPITALIZED = ("de", "lb")
"""Languages that write every noun with a capital: German and Luxembourgish."""

MONTHS = {name.casefold(): number for number, name in enumerate(calendar.month_name) if name}

LONGER, SHORTER = 2.0, 0.5
"""A reply this much longer or shorter than its reference breaks the form."""

LOOKED_AT = 200
"""Outputs that are looked at for how they use capitals."""

MISSED = {"classification": 1.0, "extraction": 1.0, "free text": 0.7}
"""A row whose score is below this is a miss."""

_NUMBER = re.compile(r"\d+(?:,\d{3})*")
_WORD = re.compile(r"\w+(?:[-.:/,]\w+)*")
_VOLATILE = re.compile(
    r"\b(?:19|20)\d\d\b|\d{1,2}[:.]\d\d\b|[$€£¥]\s?\d|\d\s?(?:%|USD|EUR|dollars|euros|percent)|\bv?\d+\.\d+(?:\.\d+)?\b"
    r"|\b(?:currently|today|now|latest|as of|this (?:week|month|year))\b",
    re.IGNORECASE,
)


class Diagnosis(Struct, frozen=True):
    """The misses of the best prompt, counted by kind; `rows` were measured.

    `facts_in_documents` and `facts_nowhere` together are missing knowledge; `form` and `content` are behaviour.
    `volatile_share` is the share of references with facts that change (dates, prices, versions).
    `fact_recall` is the share of all facts that the replies had; None when the references hold none.
    """

    rows: int
    misses: int
    facts_in_documents: int
    facts_nowhere: int
    form: int
    content: int
    volatile_share: float
    fact_recall: float | None

    @property
    def knowledge_share(self) -> float:
        """Share of the misses that lack facts."""
        return (self.facts_in_documents + self.facts_nowhere) / max(self.misses, 1)

    @property
    def found_share(self) -> float:
        """Of the misses that lack facts, the share whose facts the documents hold."""
        return self.facts_in_documents / max(self.facts_in_documents + self.facts_nowhere, 1)


@dataclass(frozen=True)
class Facts:
    """Finds the facts of a row; `closed` is the vocabulary of the training outputs.

    `names`: a capital within a sentence makes a name. `code`: the outputs are programs, which hold no facts.
    """

    closed: frozenset[str]
    names: bool = True
    code: bool = False

    def __call__(self, prompt: str, reference: str, question: str = "") -> frozenset[str]:
        """The specific words of `reference`, without case, that neither `prompt` nor the task's vocabulary gives.

        `question` is the part of the prompt that differs from row to row, its last turn.
        """
        if self.code:
            return frozenset()
        words = _WORD.findall(reference)
        specific = {word.casefold() for index, word in enumerate(words) if self._specific(words, index, reference)}
        given, asked = _numbers(prompt), _numbers(question)
        new = specific - self.closed - _words(prompt)
        return frozenset(word for word in new if not _made_of(word, given, asked))

    def _specific(self, words: Sequence[str], index: int, reference: str) -> bool:
        word = words[index]
        if any(letter.isdigit() for letter in word):
            return True
        if len(words) <= BARE_WORDS:
            return len(word) > 2
        # Mid-sentence capitals are names in most languages that have capitals; a sentence's first word is not.
        return bool(self.names and word[0].isupper() and not _begins(words, index, reference))


def learn_facts(task: Task, outputs: Sequence[str], *, code: bool = False) -> Facts:
    """A finder of facts that knows the vocabulary of the training `outputs`; `code` says that they are programs."""
    counts = Counter(word for output in outputs for word in _words(output))
    # Every label of a classification is the task's own, however rare.
    needed = 1 if task == "classification" else max(CLOSED_ROWS, CLOSED_SHARE * len(outputs))
    closed = frozenset(word for word, count in counts.items() if count >= needed)
    return Facts(closed, names=_capitals_are_names(outputs[:LOOKED_AT]), code=code)


def diagnose(
    task: Task,
    rows: Sequence[Conversation],
    references: Sequence[str],
    replies: Sequence[str],
    scores: Sequence[float],
    facts: Facts,
    passages: Callable[[int], Sequence[str]],
    labels: frozenset[str],
) -> Diagnosis:
    """What kind of misses `replies` are; `passages(row)` are the documents' most like row number `row`."""
    kinds: Counter[str] = Counter()
    wanted_facts, recalled = 0, 0
    volatile = 0
    for index, (row, wanted, reply, score) in enumerate(zip(rows, references, replies, scores, strict=True)):
        known = prompt_words(row)
        needed = facts(known, wanted, question(row))
        missing = needed - _words(reply)
        wanted_facts += len(needed)
        recalled += len(needed) - len(missing)
        volatile += bool(needed) and _VOLATILE.search(wanted) is not None
        if score < MISSED[task] or 2 * len(missing) > len(needed):
            kinds[_kind(task, wanted, reply, missing, passages(index), labels)] += 1
    return Diagnosis(
        rows=len(rows),
        misses=kinds.total(),
        facts_in_documents=kinds["facts in documents"],
        facts_nowhere=kinds["facts nowhere"],
        form=kinds["form"],
        content=kinds["content"],
        volatile_share=volatile / max(len(rows), 1),
        fact_recall=recalled / wanted_facts if wanted_facts else None,
    )


def prompt_words(row: Conversation) -> str:
    """All that the row's prompt says, as one text."""
    return "\n".join(message.content for message in row.prompt)


def _kind(
    task: Task, wanted: str, reply: str, missing: frozenset[str], passages: Sequence[str], labels: frozenset[str]
) -> str:
    if missing:
        told = frozenset().union(*map(_words, passages))
        return "facts in documents" if 2 * len(missing & told) >= len(missing) else "facts nowhere"
    return "form" if breaks_form(task, wanted, reply, labels) else "content"


def breaks_form(task: Task, wanted: str, reply: str, labels: frozenset[str]) -> bool:
    """Whether `reply` is not even the kind of thing that was asked for."""
    match task:
        case "classification":
            return label(reply) not in labels
        case "extraction":
            return not parses_as_json(reply)
        case "free text":
            size, asked = len(reply.split()), max(len(wanted.split()), 1)
            return not SHORTER * asked <= size <= LONGER * asked


def _begins(words: Sequence[str], index: int, text: str) -> bool:
    """Whether a sentence begins with the word, here or anywhere in `text`."""
    return index == 0 or bool(re.search(rf"[.!?:\n\"]\s*{re.escape(words[index])}\b", text))


def _capitals_are_names(outputs: Sequence[str]) -> bool:
    languages = Counter(map(language, outputs))
    if sum(languages[name] for name in NOUNS_CAPITALIZED) > CAPITALIZED * len(outputs):
        return False
    within: list[bool] = [
        word[0].isupper()
        for words, output in ((_WORD.findall(output), output) for output in outputs)
        for index, word in enumerate(words)
        if len(words) > BARE_WORDS and word[0].isalpha() and not _begins(words, index, output)
    ]
    return sum(within) <= CAPITALIZED * len(within)


def _numbers(text: str) -> frozenset[int]:
    """The numbers in `text`, with those of the months that it names."""
    found = {int(digits.replace(",", "")) for digits in _NUMBER.findall(text)}
    return frozenset(found | {MONTHS[word] for word in re.findall(r"[^\W\d_]+", text.casefold()) if word in MONTHS})


def _made_of(word: str, given: frozenset[int], asked: frozenset[int]) -> bool:
    """Whether a date or an amount is one that the prompt gives in another form, or may be worked out of the question.

    `given` are the numbers of the prompt, `asked` those of its question alone.
    """
    own = _numbers(word)
    if not own or any(letter.isalpha() for letter in word):
        return False
    return 2 * len(own & given) >= len(own) or len(asked) >= WORKED_OUT


def _words(text: str) -> frozenset[str]:
    """The words of `text` without case; a word with inner punctuation also in its parts."""
    found = _WORD.findall(text.casefold())
    return frozenset(found) | {part for word in found for part in re.split(f"[{re.escape(string.punctuation)}]", word)}
