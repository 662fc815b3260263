"""Runs every check over the files in one streaming pass, and gathers what they say into a `CheckReport`.

The `RowCheck`s gather facts during the pass; then they and the `ProfileCheck`s judge what it left, those that take long
side by side. A check is registered by listing it here.
"""

import gc
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tunesmith.quality.balance import balance
from tunesmith.quality.check import Profile, ProfileCheck, RowCheck, RowTexts, worst
from tunesmith.quality.contradictions import contradictions
from tunesmith.quality.diversity import diversity
from tunesmith.quality.duplicates import duplicates
from tunesmith.quality.format import FormatCheck
from tunesmith.quality.leakage import leakage
from tunesmith.quality.observe import cores, observe_files
from tunesmith.quality.outputs import OutputsCheck
from tunesmith.quality.pii.check import PersonalData
from tunesmith.quality.profanity import Profanity
from tunesmith.quality.provenance import ProvenanceCheck
from tunesmith.quality.redact import redact_text
from tunesmith.quality.report import CheckReport, Finding, RowNote
from tunesmith.quality.review import review, write_review
from tunesmith.quality.semantic import SemanticDuplicates
from tunesmith.quality.size import size
from tunesmith.quality.task import TaskInference
from tunesmith.quality.tokens import TokensCheck

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

APART_FROM_ROWS = 4_000
"""Below this many rows one process has judged before others have started."""

APART_UP_TO_ROWS = 2_000_000
"""Above this many rows the judges take turns: each needs about 100 bytes a row while it sorts."""

LOOKING: frozenset[ProfileCheck] = frozenset({diversity, leakage})
COMPARING: frozenset[ProfileCheck] = frozenset({contradictions, duplicates})
"""The checks whose judgement takes long; the latter share the rows' sketches, which take all cores."""


def check(
    files: Sequence[str | Path],
    *,
    task: str | None = None,
    model: str | None = None,
    eval_file: str | Path | None = None,
    names: str | None = None,
    profanity: bool = False,
    semantic: str | None = None,
    review_file: str | Path | None = None,
    workers: int | None = None,
    on: str = "local",
) -> CheckReport:
    """Run the checklist over `files`; broken rows are findings, not errors.

    `task` (classification, extraction, style, domain or code) is inferred when None; `model` adds the token check;
    `eval_file` the leakage check; `names` is a spaCy pipeline (folder or package) that finds names and
    places too; `profanity` looks for profane words; `semantic` is an embedding model (folder or
    hub id) that finds rows saying the same in other words; a random sample of rows to judge goes to `review_file`;
    `workers` defaults to the cores this process may use; `on="ray"` looks at the rows on a Ray cluster instead.
    Raises DataError when a file cannot be read at all, SpecError for an unknown task, ModelError for a model that
    cannot be used, MissingDependencyError for an option without its extra.
    """
    started = time.perf_counter()
    paths = tuple(str(file) for file in files)
    inference = TaskInference()
    inference.infer(task)  # refuses an unknown task before reading anything
    checklist = _checklist(model, names=names, profanity=profanity, semantic=semantic)
    row_checks = [item for item in checklist if not callable(item)]
    evaluation = None if eval_file is None else read_texts(str(eval_file))  # first: it is small, and may not be there
    workers = workers or cores()
    gathered = observe_files(paths, [inference, *row_checks], workers=workers, on=on)
    rows = gathered.rows
    profile = Profile(
        files=paths,
        rows=rows,
        task=inference.infer(task),
        characters=inference.signs.characters,
        broken=tuple(gathered.broken),
        broken_count=gathered.broken_count,
        evaluation=evaluation,
    )
    if review_file is not None:
        write_review(rows, Path(review_file))
    judged = _judge(checklist, profile, workers)
    # Where there is no row, no row is good.
    findings = tuple(_safe_to_show(finding) for finding in judged if len(rows) or finding.status != "pass")
    return CheckReport(
        files=paths,
        rows=len(rows),
        broken_rows=gathered.broken_count,
        task=profile.task.name,
        task_reason=profile.task.reason,
        status=worst(finding.status for finding in findings),
        findings=findings,
        seconds=time.perf_counter() - started,
    )


def _safe_to_show(finding: Finding) -> Finding:
    """`finding` with personal data in its quotations replaced: a report is passed on as the data may not be."""
    rows = tuple(RowNote(row.where, redact_text(row.note)) for row in finding.rows)
    return msgspec.structs.replace(finding, rows=rows)


def _checklist(
    model: str | None, *, names: str | None, profanity: bool, semantic: str | None
) -> list[RowCheck[Any] | ProfileCheck]:
    """Every check, in the order of the report."""
    tokens = [] if model is None else [TokensCheck(model)]
    meanings = [] if semantic is None else [SemanticDuplicates(semantic)]
    return [
        size,
        FormatCheck(),
        diversity,
        OutputsCheck(),
        *([Profanity()] if profanity else []),
        review,
        contradictions,
        balance,
        duplicates,
        *meanings,
        PersonalData(names=names),
        leakage,
        ProvenanceCheck(),
        *tokens,
    ]


def _judge(checklist: Sequence[RowCheck[Any] | ProfileCheck], profile: Profile, workers: int) -> list[Finding]:
    """What every check says, in their order; those that take long side by side, where there is much to compare."""
    judges = [item for item in checklist if callable(item)]
    waiting: dict[ProfileCheck, Callable[[], tuple[Finding, ...]]] = {}
    if workers > 1 and APART_FROM_ROWS <= len(profile.rows) <= APART_UP_TO_ROWS and sys.platform == "linux":
        waiting |= {judge: _aside(judge, profile) for judge in judges if judge in LOOKING}
        _ = profile.rows.sketches  # on all cores, and before the judges that share them go their ways
        waiting |= {judge: _aside(judge, profile) for judge in judges if judge in COMPARING}
    findings: list[Finding] = []
    for item in checklist:
        if not callable(item):
            findings += item.findings(profile)
        else:
            findings += waiting[item]() if item in waiting else item(profile)
    return findings


def _aside(judge: ProfileCheck, profile: Profile) -> Callable[[], tuple[Finding, ...]]:
    """Start `judge` in a process of its own; what is returned waits for its findings, and raises what it raised."""
    context = get_context("fork")  # so that it sees the spilled rows without a copy of them being sent
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_send_findings, args=(judge, profile, sending))
    process.start()
    sending.close()

    def findings() -> tuple[Finding, ...]:
        try:
            outcome: tuple[Finding, ...] | Exception = receiving.recv()
        except EOFError:  # the process was killed
            return judge(profile)
        process.join()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return findings


def _send_findings(judge: ProfileCheck, profile: Profile, sending: "Connection") -> None:
    gc.freeze()  # what the parent made is not looked through, and so not copied, at every collection
    try:
        sending.send(judge(profile))
    except Exception as error:  # noqa: BLE001  # raised where it is waited for
        sending.send(error)


def read_texts(file: str) -> RowTexts:
    """The readable rows of one file, spilled, as checks read them back."""
    return observe_files([file], ()).rows
