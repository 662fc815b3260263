"""What kind of task the rows teach, read off their outputs, because the right amount of data depends on it.

Rules in order of how sure they are: few short outputs that repeat are classes; outputs that are JSON or tool calls
are extraction; outputs that are code are code; outputs that say the input again in other words, or prompts that ask
for a tone, are style; what is left is domain knowledge. `--task` overrides, and the reason is always told.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from tunesmith.errors import SpecError
from tunesmith.planning.data_facts import RECOMMENDED_ROWS
from tunesmith.quality.check import ClassCount, Row, Task, share

LABEL_CHARACTERS = 60
LABEL = re.compile(r"""[\w .,:;/&+*#%!?'"()\[\]{}|-]+""")
"""A class name is short and plain; markup and mojibake are not names of classes."""

MOST_CLASSES = 10_000
"""Past this many distinct short outputs they are no classes; counting stops so that memory stays bounded."""

ROWS_PER_CLASS = 4
"""An output is a class when it repeats; a set is a classification when its classes have this many rows on average."""

ALL_LOOKED_AT = 1_000
LOOKED_AT_EVERY = 50
"""Structure, code, tone and rewriting are judged on the first 1,000 rows and every 50th after."""

COMPARED_CHARACTERS = 400
"""Of input and output, when their words are compared."""

CODE = re.compile(
    r"^```(?!json|text|markdown|\s*$)\w|^\s*(def \w+\(|class \w+[:(]|import \w+$|from [\w.]+ import |"
    r"(function|fn|func) \w+\(|(public|private|static) \w+|#include [<\"]|(const|let|var) \w+ ?=|SELECT .+ FROM |"
    r"package \w+$)",
    re.MULTILINE,
)
TONE = re.compile(
    r"\b(rewrite|rephrase|paraphrase|reword|style|tone|formal(ly)?|informal|polite(ly)?|casual(ly)?|voice|"
    r"persona|in the manner of|(say|write|speak|talk|answer|reply|respond|sound) (it |this |that )?(like|as) an?)\b",
    re.IGNORECASE,
)
TONE_SIGNS = (
    "rewrit", "rephras", "paraphras", "reword", "style", "tone", "formal", "polite", "casual", "voice", "persona",
    "in the manner", "like a", "as a",
)  # fmt: skip
"""One of them is in everything that `TONE` matches, in lower case."""

WORD = re.compile(r"\w{3,}")


class TaskSigns(Struct):
    """Counts over all rows, and over those looked at for what takes longer; `outputs` counts distinct short outputs."""

    rows: int = 0
    characters: int = 0
    labelled: int = 0
    short: int = 0
    looked_at: int = 0
    json: int = 0
    code: int = 0
    tone: int = 0
    rewritten: int = 0
    preferences: int = 0
    labels: Counter[str] = msgspec.field(default_factory=Counter)
    outputs: Counter[str] = msgspec.field(default_factory=Counter)


class TaskInference:
    """An `Observer`: gathers the signs of each task; `infer` decides."""

    def __init__(self) -> None:
        self.signs = TaskSigns()

    def observe(self, rows: Sequence[Row]) -> TaskSigns:
        """Count the signs of each task in a batch."""
        signs = TaskSigns(rows=len(rows))
        for row in rows:
            conversation, output = row.conversation, row.output
            signs.characters += len(row.input) + len(output)
            signs.preferences += bool(conversation.rejected)
            if conversation.label:
                signs.labelled += 1
                signs.labels[conversation.label] += 1
            if len(label := output.strip()) <= LABEL_CHARACTERS and LABEL.fullmatch(label):
                signs.short += 1
                signs.outputs[label] += 1
            if row.index < ALL_LOOKED_AT or row.index % LOOKED_AT_EVERY == 0:
                signs.looked_at += 1
                signs.json += is_structured(row)
                signs.code += _is_code(output)
                signs.tone += _asks_for_tone(row)
                signs.rewritten += _is_rewritten(row)
        return signs

    def add(self, observed: TaskSigns) -> None:
        """Gather one batch."""
        total = self.signs
        for name in (
            "rows",
            "characters",
            "labelled",
            "short",
            "looked_at",
            "json",
            "code",
            "tone",
            "rewritten",
            "preferences",
        ):
            setattr(total, name, getattr(total, name) + getattr(observed, name))
        for counts, more in ((total.labels, observed.labels), (total.outputs, observed.outputs)):
            if len(counts) <= MOST_CLASSES:
                counts.update(more)

    def infer(self, task: str | None = None) -> Task:
        """The task, `task` if given. Raises SpecError for a task that does not exist."""
        if task is not None and task not in RECOMMENDED_ROWS:
            raise SpecError(f"--task {task}: not a known task; use one of {', '.join(RECOMMENDED_ROWS)}")
        classes = self._classes()
        if task is not None:
            return Task(task, "given with --task", classes if task == "classification" else ())
        if not self.signs.rows:
            return Task("domain", "no readable row tells the task")
        signs, rows, looked_at = self.signs, max(self.signs.rows, 1), max(self.signs.looked_at, 1)
        if classes:
            source = "named in a label column" if signs.labelled > rows / 2 else "short outputs that repeat"
            return Task("classification", f"{len(classes)} classes in {signs.rows:,} rows, {source}", classes)
        if signs.json > looked_at / 2:
            return Task("extraction", f"{share(signs.json, looked_at)} of the outputs are JSON or tool calls")
        if signs.code > looked_at / 2:
            return Task("code", f"{share(signs.code, looked_at)} of the outputs contain code")
        if signs.tone > looked_at / 2:
            return Task("style", f"{share(signs.tone, looked_at)} of the prompts ask for a tone or a rewriting")
        if signs.rewritten > looked_at / 2:
            return Task(
                "style", f"{share(signs.rewritten, looked_at)} of the outputs say the input again in other words"
            )
        if signs.preferences > rows / 2:
            return Task("style", f"{share(signs.preferences, rows)} of the rows are preference pairs")
        return Task("domain", "outputs are free text: neither classes, structure, code nor rewritings")

    def _classes(self) -> tuple[ClassCount, ...]:
        """The classes, most frequent first; empty when outputs do not repeat as labels do."""
        signs = self.signs
        if signs.labelled > signs.rows / 2:
            counts = signs.labels
        elif signs.short > 0.8 * signs.rows:
            counts = signs.outputs
        else:
            return ()
        repeated = sum(count for count in counts.values() if count > 1)
        if len(counts) > MOST_CLASSES or repeated < 0.8 * signs.rows or counts.total() < ROWS_PER_CLASS * len(counts):
            return ()
        return tuple(ClassCount(name, count) for name, count in counts.most_common())


def is_structured(row: Row) -> bool:
    """Whether the output is a JSON object or array, or a turn that is trained on calls a tool."""
    learnt = row.conversation.messages[row.conversation.completion_start or 0 :]
    if any(message.tool_calls and message.weight != 0 for message in learnt):
        return True
    text = unfenced(row.output)
    return text[:1] in ("{", "[") and parses(text)


def unfenced(output: str) -> str:
    """The output without the Markdown fence around it, if that is all there is around it."""
    text = output.strip()
    if text.startswith("```") and text.endswith("```") and len(text) > 6:
        first, _, rest = text[:-3].partition("\n")
        if first in ("```", "```json", "```JSON"):
            return rest.strip()
    return text


def parses(text: str) -> bool:
    """Whether `text` is JSON."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True


def json_value(text: str) -> Any:
    """The value of the JSON `text`, None where it does not parse."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


def _is_code(output: str) -> bool:
    return output.lstrip()[:1] not in ("{", "[") and CODE.search(output) is not None


def _asks_for_tone(row: Row) -> bool:
    asked = (
        message.content[:COMPARED_CHARACTERS] for message in row.conversation.prompt if message.role != "assistant"
    )
    return any(any(sign in text.lower() for sign in TONE_SIGNS) and TONE.search(text) for text in asked)


def _is_rewritten(row: Row) -> bool:
    """Whether most of the output's words are the input's, at a similar length."""
    low, high = sorted((len(row.input), len(row.output)))
    if low < 20 or high > 3 * low:
        return False
    said = set(WORD.findall(row.output[:COMPARED_CHARACTERS].lower()))
    asked = set(WORD.findall(row.input[:COMPARED_CHARACTERS].lower()))
    return len(said & asked) >= 0.6 * len(said)
