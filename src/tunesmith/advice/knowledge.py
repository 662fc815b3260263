"""Knowledge or behaviour: what kind of thing the model gets wrong, read off its misses.

Fine-tuning teaches form well and facts badly, retrieval the reverse, so the decision hangs on this. A fact is something
specific in the reference (a number, a name, an identifier) that the prompt does not say and the task's own vocabulary
does not hold. A miss that lacks facts is missing knowledge; a miss that had all it needed is behaviour: broken form, or
the right form with the wrong content. Lexical, so it undercounts facts that are said in common words; the measured gain
of retrieval over documents stands beside it.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec import Struct

from tunesmith.dataset.conversation import Conversation
from tunesmith.evaluation.metrics import Task, label, parses_as_json

CLOSED_SHARE = 0.02
CLOSED_ROWS = 3
"""A word in this share of the training outputs, and in so many of them, is the task's vocabulary and no fact."""

BARE_WORDS = 2
"""An output of at most so many words is an answer and no sentence: its capital letter then says nothing."""

LONGER, SHORTER = 2.0, 0.5
"""A reply this much longer or shorter than its reference breaks the form."""

MISSED = {"classification": 1.0, "extraction": 1.0, "free text": 0.7}
"""A row whose score is below this is a miss."""

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
    """Finds the facts of a row; `closed` is the vocabulary of the training outputs."""

    closed: frozenset[str]

    def __call__(self, prompt: str, reference: str) -> frozenset[str]:
        """The specific words of `reference`, without case, that neither `prompt` nor the task's vocabulary gives."""
        words = _WORD.findall(reference)
        specific = {word.casefold() for index, word in enumerate(words) if self._specific(words, index, reference)}
        return frozenset(specific - self.closed - _words(prompt))

    def _specific(self, words: Sequence[str], index: int, reference: str) -> bool:
        word = words[index]
        if any(letter.isdigit() for letter in word):
            return True
        if len(words) <= BARE_WORDS:
            return len(word) > 2
        # Mid-sentence capitals are names in most languages that have capitals; a sentence's first word is not.
        start = index == 0 or bool(re.search(rf"[.!?:\n\"]\s*{re.escape(word)}\b", reference))
        return word[0].isupper() and not start


def learn_facts(outputs: Sequence[str]) -> Facts:
    """A finder of facts that knows the vocabulary of the training `outputs`."""
    counts = Counter(word for output in outputs for word in _words(output))
    needed = max(CLOSED_ROWS, CLOSED_SHARE * len(outputs))
    return Facts(frozenset(word for word, count in counts.items() if count >= needed))


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
        needed = facts(known, wanted)
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


def _words(text: str) -> frozenset[str]:
    """The words of `text` without case; a word with inner punctuation also in its parts."""
    found = _WORD.findall(text.casefold())
    return frozenset(found) | {part for word in found for part in re.split(f"[{re.escape(string.punctuation)}]", word)}
