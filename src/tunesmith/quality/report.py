"""What a check says: one type for every check, shown alike by the command line, the HTML page and `--json`."""

from typing import Any, Literal

from msgspec import Struct

Status = Literal["pass", "warn", "fail"]


class RowNote(Struct, frozen=True):
    """One offending row (`where` is `file:line` or `file:line:column`) and what is wrong with it."""

    where: str
    note: str


class Finding(Struct, frozen=True):
    """The outcome of one check.

    `finding` is a sentence with the numbers; `count` how many rows it concerns; `rows` the first of them;
    `mend` what to do; `command` the command line that does it, or None where only a person can;
    `facts` the numbers behind it, for machines and plots.
    """

    check: str
    status: Status
    finding: str
    count: int = 0
    rows: tuple[RowNote, ...] = ()
    mend: str | None = None
    command: str | None = None
    facts: dict[str, Any] = {}


class CheckReport(Struct, frozen=True):
    """All findings over the given files; `status` is the worst of them."""

    files: tuple[str, ...]
    rows: int
    broken_rows: int
    task: str
    task_reason: str
    status: Status
    findings: tuple[Finding, ...]
    seconds: float
