"""Write a mended copy of a data set, and a log line for every row that was changed or dropped.

Rows are read twice: first to see which are superfluous beside the others, then to write what stays, so memory holds
sketches, not rows. Cleaning is idempotent: each step is repeated until it finds nothing more. The log says what was
done and why but never repeats personal data.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import ftfy
import msgspec
import numpy as np
from msgspec import Struct

from tunesmith.dataset.conversation import BrokenRow, Conversation, Message
from tunesmith.dataset.neardup import LazyTexts
from tunesmith.dataset.read import read
from tunesmith.dataset.shingles import Integers
from tunesmith.dataset.write import write
from tunesmith.errors import DataError, SpecError
from tunesmith.quality.blemishes import is_mojibake, is_refusal
from tunesmith.quality.check import RowTexts, output_text, quote
from tunesmith.quality.contradictions import contradicting_rows
from tunesmith.quality.duplicates import duplicate_rows
from tunesmith.quality.pii.names import finder, installed_model
from tunesmith.quality.pii.scan import find_pii
from tunesmith.quality.redact import Finder, redact, redact_text
from tunesmith.quality.rows import RowWriter
from tunesmith.storage import atomic_file


class LogEntry(Struct, frozen=True, omit_defaults=True):
    """One line of the log: the row, what was done to it and why; `before` and `after` for a change."""

    where: str
    action: str
    why: str
    before: str | None = None
    after: str | None = None


class CleanResult(Struct, frozen=True):
    """What `clean` did: `actions` counts rows by what was done to them."""

    source: str
    target: str
    log: str
    rows_read: int
    rows_written: int
    actions: dict[str, int]


@dataclass(frozen=True, slots=True)
class Mends:
    """What `clean` was asked to do."""

    drop_duplicates: bool = False
    drop_near_duplicates: bool = False
    drop_contradictions: bool = False
    drop_broken: bool = False
    drop_empty: bool = False
    drop_refusals: bool = False
    fix_mojibake: bool = False
    redact_pii: bool = False

    @property
    def compare_rows(self) -> bool:
        """Whether a row's fate depends on the other rows."""
        return self.drop_duplicates or self.drop_near_duplicates or self.drop_contradictions


def clean(
    source: str | Path,
    target: str | Path,
    *,
    drop_duplicates: bool = False,
    drop_near_duplicates: bool = False,
    drop_contradictions: bool = False,
    drop_broken: bool = False,
    drop_empty: bool = False,
    drop_refusals: bool = False,
    fix_mojibake: bool = False,
    redact_pii: bool = False,
    names: str | None = None,
) -> CleanResult:
    """Write the rows of `source`, mended as asked, to `target` in the same format; the log goes to TARGET.log.jsonl.

    Of duplicates the first is kept; of contradicting rows none is. Names and places are redacted with the spaCy
    pipeline `names` (folder or package), or with an installed one.
    Raises SpecError when nothing is asked for or `target` is `source`, DataError for broken rows (unless they are
    dropped) or rows of several formats, and what `finder` raises.
    """
    mends = Mends(
        drop_duplicates,
        drop_near_duplicates,
        drop_contradictions,
        drop_broken,
        drop_empty,
        drop_refusals,
        fix_mojibake,
        redact_pii,
    )
    if names is not None and not redact_pii:
        raise SpecError("--names: says how to redact; add --redact-pii")
    if mends == Mends():
        raise SpecError(f"{source}: nothing to mend; say what, for instance --drop-duplicates or --redact-pii")
    if str(source) != "-" and _same_file(Path(source), Path(target)):
        raise SpecError(f"{target}: is the input, which is never overwritten; choose another OUT")

    cleaning = _Cleaning(source, mends, finder(names or installed_model()) if redact_pii else find_pii)
    log = Path(f"{target}.log.jsonl")
    with atomic_file(log) as temporary, temporary.open("wb") as stream:
        written = write(target, cleaning.rows(stream), format=cleaning.format)
    return CleanResult(str(source), str(target), str(log), cleaning.rows_read, written, dict(cleaning.actions))


class _Cleaning:
    """One run over one source: the decisions of the first reading, and the counts of the second."""

    def __init__(self, source: str | Path, mends: Mends, find: Finder) -> None:
        self._mends = mends
        self._find = find
        # Standard input cannot be read twice.
        once = list(read(source)) if str(source) == "-" else None
        self._read: Callable[[], Iterator[Conversation | BrokenRow]] = lambda: iter(once or read(source))
        self.format = self._check_rows(str(source))
        self._superfluous = self._compare() if mends.compare_rows else {}
        self.rows_read = 0
        self.actions: Counter[str] = Counter()

    def rows(self, log: IO[bytes]) -> Iterator[Conversation]:
        """The rows that stay, mended; everything else that happens goes to `log`."""
        kept = 0
        broken: set[int] = set()
        for row in self._read():
            if isinstance(row, BrokenRow):
                if row.number not in broken:
                    broken.add(row.number)
                    self.rows_read += 1
                    self._log(log, "broken rows dropped", LogEntry(f"{row.file}:{row.line}", "dropped", str(row)))
                continue
            self.rows_read += 1
            mended, changes = self._mend(row)
            why = self._blemish(mended)
            if why is None:
                why = self._superfluous.get(kept)
                kept += 1
            if why is not None:
                self._log(log, f"{why.kind} dropped", LogEntry(str(row.source), "dropped", why.reason))
                continue
            for change in changes:
                self._log(log, change.action, change)
            yield mended

    def _check_rows(self, source: str) -> str:
        """The one format of the rows; broken rows are refused here, before anything is written."""
        formats: dict[str, int] = {}
        for row in self._read():
            if isinstance(row, BrokenRow):
                if not self._mends.drop_broken:
                    raise DataError(f"{row}\n(a broken row cannot be kept; mend it, or add --drop-broken)")
            elif row.source is not None:
                formats.setdefault(row.source.format, row.source.line)
        if len(formats) > 1:
            places = " and ".join(f"{name} (line {line})" for name, line in list(formats.items())[:2])
            raise DataError(
                f"{source}: rows in several formats, {places}; first bring them to one: tunesmith data convert"
            )
        if not formats:
            raise DataError(f"{source}: no readable row; nothing would be left")
        return next(iter(formats))

    def _compare(self) -> "dict[int, _Reason]":
        """The rows that do not stay because of the others, by their number among the rows without blemish."""
        writer = RowWriter()
        for row in self._read():
            if isinstance(row, Conversation):
                mended, _ = self._mend(row)
                if self._blemish(mended) is None:
                    writer.extend([mended])
        rows = writer.rows()
        dropped: dict[int, _Reason] = {}
        left = np.arange(len(rows))
        while found := _superfluous(_take(rows, left), self._mends):
            dropped.update((int(left[index]), reason) for index, reason in found.items())
            left = np.delete(left, list(found))
        return dropped

    def _mend(self, row: Conversation) -> tuple[Conversation, list[LogEntry]]:
        """The row with its texts mended, and what was changed."""
        changes: list[LogEntry] = []
        if self._mends.fix_mojibake:
            mended = _map_texts(row, _fix_encoding)
            if mended != row:
                before, after = _difference(row, mended)
                changes.append(
                    LogEntry(
                        str(row.source),
                        "mojibake fixed",
                        "decoded with the wrong encoding",
                        before=quote(redact_text(before)),
                        after=quote(redact_text(after)),
                    )
                )
                row = mended
        if self._mends.redact_pii:
            redaction = redact(row, self._find)
            if redaction.found:
                _, after = _difference(row, redaction.row)
                changes.append(LogEntry(str(row.source), "personal data redacted", str(redaction), after=quote(after)))
                row = redaction.row
        return row, changes

    def _blemish(self, row: Conversation) -> "_Reason | None":
        output = output_text(row)
        if self._mends.drop_empty and not output.strip():
            return _Reason("empty rows", "the output is empty")
        if self._mends.drop_refusals and is_refusal(output):
            return _Reason("refusals", "the output is a refusal or talks about being a model")
        return None

    def _log(self, log: IO[bytes], action: str, entry: LogEntry) -> None:
        self.actions[action] += 1
        safe = msgspec.structs.replace(entry, why=redact_text(entry.why))
        log.write(msgspec.json.encode(safe) + b"\n")


@dataclass(frozen=True, slots=True)
class _Reason:
    kind: str
    reason: str


def _superfluous(rows: RowTexts, mends: Mends) -> dict[int, _Reason]:
    """The rows to drop beside the others; contradictions only once there are no duplicates left to drop."""
    dropped: dict[int, _Reason] = {}
    if mends.drop_duplicates or mends.drop_near_duplicates:
        copies = duplicate_rows(rows)
        dropped = {copy: _Reason("duplicates", f"same as {rows.where(kept)}") for copy, kept in copies.exact.items()}
        if mends.drop_near_duplicates:
            for copy, kept in copies.near.items():
                dropped[copy] = _Reason("near-duplicates", f"nearly the same as {rows.where(kept)}")
    if not dropped and mends.drop_contradictions:
        for pair in contradicting_rows(rows):
            for one, other in ((pair.left, pair.right), (pair.right, pair.left)):
                dropped.setdefault(
                    one, _Reason("contradictions", f"answers the same input differently than {rows.where(other)}")
                )
    return dropped


def _take(rows: RowTexts, indices: Integers) -> RowTexts:
    positions: list[int] = indices.tolist()
    return dataclasses.replace(
        rows,
        inputs=LazyTexts(len(positions), lambda index: rows.inputs[positions[index]]),
        outputs=LazyTexts(len(positions), lambda index: rows.outputs[positions[index]]),
        contexts=rows.contexts[indices],
        labels=LazyTexts(len(positions), lambda index: rows.labels[positions[index]]),
        file_of=rows.file_of[indices],
        lines=rows.lines[indices],
    )


def _fix_encoding(text: str) -> str:
    # Text decoded wrongly twice needs two rounds.
    while is_mojibake(text) and (fixed := ftfy.fix_encoding(text)) != text:
        text = fixed
    return text


def _map_texts(row: Conversation, change: Callable[[str], str]) -> Conversation:
    def message(old: Message) -> Message:
        thinking = None if old.thinking is None else change(old.thinking)
        return msgspec.structs.replace(old, content=change(old.content), thinking=thinking)

    return msgspec.structs.replace(
        row,
        messages=tuple(map(message, row.messages)),
        rejected=tuple(map(message, row.rejected)),
        text=None if row.text is None else change(row.text),
    )


def _difference(before: Conversation, after: Conversation) -> tuple[str, str]:
    """The first text that differs between two states of a row, in both."""
    pairs = zip(
        (*before.messages, *before.rejected, Message("user", before.text or "")),
        (*after.messages, *after.rejected, Message("user", after.text or "")),
        strict=True,
    )
    for old, new in pairs:
        if old.content != new.content:
            return old.content, new.content
        if old != new:
            return str(old.thinking or old.tool_calls), str(new.thinking or new.tool_calls)
    return str(before.metadata), str(after.metadata)


def _same_file(source: Path, target: Path) -> bool:
    return source.resolve() == target.resolve() or (target.exists() and source.exists() and target.samefile(source))
