"""Rewrite a data set in another format, and say what that format cannot carry before anything is lost."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from tunesmith.dataset.containers import text_lines
from tunesmith.dataset.containers.compression import content_ending
from tunesmith.dataset.conversation import BrokenRow, Conversation
from tunesmith.dataset.formats import cannot_carry, find_format, write_row
from tunesmith.dataset.read import read
from tunesmith.dataset.write import write
from tunesmith.errors import DataError, SpecError

IMPOSSIBLE = {
    "preference": "rejected reply",
    "text": "plain text (a conversation becomes text only by a model's chat template)",
}


class Loss(Struct, frozen=True):
    """Something that the target format cannot carry, in how many rows, and the first of them (`file:line`)."""

    what: str
    rows: int
    first: str

    def __str__(self) -> str:
        return f"{self.what} in {self.rows:,} row{'s' if self.rows != 1 else ''} (first: {self.first})"


class Conversion(Struct, frozen=True):
    """What `convert` wrote, and what was lost on the way."""

    target: Path
    format: str
    rows: int
    losses: tuple[Loss, ...]


def convert(source: str | Path, target: str | Path, *, to: str, lossy: bool = False) -> Conversion:
    """Write the rows of `source` to `target` in format `to`; the ending of `target` chooses the container.

    Raises DataError, with nothing written, when a row is broken, when `to` cannot hold a row at all, or when
    something would be lost and `lossy` was not given.
    """
    find_format(to)
    if str(source) != "-" and Path(source).resolve() == Path(target).resolve():
        raise SpecError(f"{target}: is the input itself; give another file to write")
    counts: Counter[str] = Counter()
    firsts: dict[str, str] = {}

    def carried() -> Iterator[Conversation]:
        for row in read(source):
            if isinstance(row, BrokenRow):
                raise DataError(f"{row}\n(drop broken rows first: tunesmith data clean {source} OUT --drop-broken)")
            _must_fit(row, to)
            lost = cannot_carry(row, to)
            if content_ending(str(target)) == ".txt":
                lost += text_lines.cannot_carry(write_row(row, to))
            for what in lost:
                counts[what] += 1
                firsts.setdefault(what, str(row.source))
            yield row
        if counts and not lossy:
            named = "; ".join(str(loss) for loss in _losses(counts, firsts))
            raise DataError(f"{to} cannot carry: {named}\nNothing was written; add --lossy to convert without them.")

    written = write(target, carried(), format=to)
    return Conversion(Path(target), to, written, _losses(counts, firsts))


def _losses(counts: Counter[str], firsts: dict[str, str]) -> tuple[Loss, ...]:
    return tuple(Loss(what, rows, firsts[what]) for what, rows in counts.most_common())


def _must_fit(row: Conversation, to: str) -> None:
    if to == "text" and row.text is None:
        raise DataError(f"{row.source}: this row has no {IMPOSSIBLE['text']}; choose another --to")
    if to != "text" and row.text is not None:
        raise DataError(f"{row.source}: a row of plain text has no turns, so {to} cannot hold it; use --to text")
    if to == "preference" and not row.rejected:
        raise DataError(f"{row.source}: this row has no {IMPOSSIBLE['preference']}, so it is no preference pair")
