"""Runs every check over the files in one streaming pass, and gathers what they say into a `CheckReport`.

The parent reads rows and hands batches to worker processes, which run all `RowCheck`s on each; what comes back is
small. The `ProfileCheck`s then judge what the pass left. Small sets stay in this process, since starting workers costs
more than checking them. A check is registered by listing it here.
"""

import itertools
import os
import pickle
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec

from tunesmith.dataset.conversation import BrokenRow, Conversation
from tunesmith.dataset.read import read
from tunesmith.quality.balance import balance
from tunesmith.quality.check import (
    SHOWN_ROWS,
    Observer,
    Profile,
    ProfileCheck,
    Row,
    RowCheck,
    RowTexts,
    row_texts,
    worst,
)
from tunesmith.quality.contradictions import contradictions
from tunesmith.quality.diversity import diversity
from tunesmith.quality.duplicates import duplicates
from tunesmith.quality.format import FormatCheck
from tunesmith.quality.leakage import leakage
from tunesmith.quality.on_ray import observe_on_ray
from tunesmith.quality.outputs import OutputsCheck
from tunesmith.quality.pii.check import PersonalData
from tunesmith.quality.profanity import Profanity
from tunesmith.quality.provenance import ProvenanceCheck
from tunesmith.quality.report import CheckReport, Finding
from tunesmith.quality.review import review, write_review
from tunesmith.quality.rows import RowWriter
from tunesmith.quality.semantic import SemanticDuplicates
from tunesmith.quality.size import size
from tunesmith.quality.task import TaskInference
from tunesmith.quality.tokens import TokensCheck

BATCH_ROWS = 500
"""Rows per unit of work: large enough that handing it over costs little, small enough that workers share evenly."""

WORKERS_FROM_ROWS = 4_000
"""Below this many rows one process is done before others have started."""

APART_UP_TO_ROWS = 2_000_000
"""Above this many rows the judges take turns: each needs about 100 bytes a row while it sorts."""

COMPARING: frozenset[ProfileCheck] = frozenset({diversity, contradictions, duplicates, leakage})
"""The checks whose judgement takes long."""


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
    reading = _Reading(paths)
    rows = _run(reading, [inference, *row_checks], workers or _cores(), on)
    profile = Profile(
        files=paths,
        rows=rows,
        task=inference.infer(task),
        characters=inference.signs.characters,
        broken=tuple(reading.broken),
        broken_count=reading.broken_count,
        evaluation=evaluation,
    )
    if review_file is not None:
        write_review(rows, Path(review_file))
    judged = _judge(checklist, profile, workers or _cores())
    # Where there is no row, no row is good.
    findings = tuple(finding for finding in judged if len(rows) or finding.status != "pass")
    return CheckReport(
        files=paths,
        rows=len(rows),
        broken_rows=reading.broken_count,
        task=profile.task.name,
        task_reason=profile.task.reason,
        status=worst(finding.status for finding in findings),
        findings=findings,
        seconds=time.perf_counter() - started,
    )


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


class _Reading:
    """Iterates over batches of readable rows; counts the broken ones and keeps the first of them."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files
        self.broken: list[BrokenRow] = []
        self.broken_count = 0

    def __iter__(self) -> Iterator[list[Conversation]]:
        rows = self._rows()
        while batch := list(itertools.islice(rows, BATCH_ROWS)):
            yield batch

    def _rows(self) -> Iterator[Conversation]:
        last = None
        for row in itertools.chain.from_iterable(read(file) for file in self._files):
            if isinstance(row, Conversation):
                yield row
                continue
            # A row with several mistakes comes several times in a row.
            self.broken_count += (row.file, row.number) != last
            last = row.file, row.number
            if len(self.broken) < SHOWN_ROWS:
                self.broken.append(row)


def _run(reading: _Reading, checks: list[Observer[Any]], workers: int, on: str) -> RowTexts:
    """The pass: every check has gathered every row when it returns."""
    writer = RowWriter()

    def batches() -> Iterator[tuple[int, list[Conversation]]]:
        start = 0
        for batch in reading:
            writer.extend(batch)
            yield start, batch
            start += len(batch)

    stream = batches()
    if on == "ray":
        observed = observe_on_ray(_observe_packed, ((start, _pack(batch)) for start, batch in stream), checks)
    else:
        first = list(itertools.islice(stream, WORKERS_FROM_ROWS // BATCH_ROWS))
        many = len(first) == WORKERS_FROM_ROWS // BATCH_ROWS and workers > 1
        stream = itertools.chain(first, stream)
        observed = (
            _observe_in_workers(stream, checks, workers) if many else (_observe(checks, *item) for item in stream)
        )
    for facts in observed:
        for row_check, fact in zip(checks, facts, strict=True):
            row_check.add(fact)
    return writer.rows()


def _judge(checklist: Sequence[RowCheck[Any] | ProfileCheck], profile: Profile, workers: int) -> list[Finding]:
    """What every check says, in their order; those that compare rows side by side, where there is much to compare."""
    apart = [item for item in checklist if callable(item) and item in COMPARING]
    if workers == 1 or not WORKERS_FROM_ROWS <= len(profile.rows) <= APART_UP_TO_ROWS or sys.platform != "linux":
        apart = []
    if apart:
        _ = profile.rows.sketches  # on all cores, and before the judges that share them go their ways
    # Forked, a judge sees the spilled rows without a copy of them being sent.
    with (
        ProcessPoolExecutor(workers, get_context("fork"), _share_profile, (profile,))
        if apart
        else nullcontext() as pool
    ):
        waiting = {item: pool.submit(_judge_shared, item) for item in apart} if pool is not None else {}
        findings: list[Finding] = []
        for item in checklist:
            if not callable(item):
                findings += item.findings(profile)
            else:
                findings += waiting[item].result() if item in waiting else item(profile)
    return findings


_shared_profile: list[Profile] = []


def _share_profile(profile: Profile) -> None:
    _shared_profile[:] = [profile]


def _judge_shared(item: ProfileCheck) -> tuple[Finding, ...]:
    return item(_shared_profile[0])


def _observe(checks: Sequence[Observer[Any]], start: int, batch: Sequence[Conversation]) -> list[Any]:
    rows = [Row(start + offset, conversation, *row_texts(conversation)) for offset, conversation in enumerate(batch)]
    return [row_check.observe(rows) for row_check in checks]


def _observe_in_workers(
    batches: Iterator[tuple[int, list[Conversation]]], checks: list[Observer[Any]], workers: int
) -> Iterator[list[Any]]:
    """What `_observe` returns for each batch, in order, at most two batches per worker in flight."""
    # Forked workers start in milliseconds and do not run the caller's script again; elsewhere forking is not safe.
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(checks,)) as pool:
        waiting: deque[Future[list[Any]]] = deque()
        for start, batch in batches:
            waiting.append(pool.submit(_observe_in_worker, start, _pack(batch)))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


_worker_checks: list[Observer[Any]] = []
_decoder = msgspec.msgpack.Decoder(list[Conversation])


def _start_worker(checks: list[Observer[Any]]) -> None:
    _worker_checks[:] = checks


def _observe_in_worker(start: int, packed: bytes) -> list[Any]:
    return _observe_packed(_worker_checks, start, packed)


def _observe_packed(checks: Sequence[Observer[Any]], start: int, packed: bytes) -> list[Any]:
    return _observe(checks, start, _unpack(packed))


def _pack(batch: list[Conversation]) -> bytes:
    """The batch as bytes: MessagePack, or pickle for the rare values (huge integers, dates) it has no type for."""
    try:
        return b"m" + msgspec.msgpack.encode(batch)
    except (OverflowError, TypeError, ValueError):
        return b"p" + pickle.dumps(batch)


def _unpack(packed: bytes) -> list[Conversation]:
    if packed[:1] == b"m":
        return _decoder.decode(memoryview(packed)[1:])
    rows: list[Conversation] = pickle.loads(memoryview(packed)[1:])  # noqa: S301 (our own parent wrote it)
    return rows


def read_texts(file: str) -> RowTexts:
    """The readable rows of one file, spilled, as checks read them back."""
    writer = RowWriter()
    for batch in _Reading([file]):
        writer.extend(batch)
    return writer.rows()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
