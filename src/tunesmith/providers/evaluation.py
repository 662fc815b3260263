"""A hosted model against its base, asked through the provider's chat endpoint: the same metrics and statistics as here.

An endpoint gives replies and no losses, so the comparison rests on the replies alone. At most `MAX_REPLIES` rows are
asked, which bounds the bill as well as the time.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np

from tunesmith import storage
from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.formats.openai import write_messages
from tunesmith.dataset.prompting import reference, shown_prompt
from tunesmith.dataset.read import load
from tunesmith.errors import DataError, RunError
from tunesmith.evaluation.comparison import Systems, compare_replies, headline_score
from tunesmith.evaluation.evaluate import MAX_REPLIES, SEED
from tunesmith.evaluation.metrics import infer_task
from tunesmith.evaluation.result import Evaluation, MetricComparison, Sample, Verdict
from tunesmith.evaluation.verdicts import judge_help, judge_training
from tunesmith.providers.find import find_provider
from tunesmith.providers.protocol import Provider, Turns
from tunesmith.providers.state import read_state
from tunesmith.run_folder import RunFolder
from tunesmith.training.events import read_events

CONCURRENT = 8
"""Requests under way at once; providers limit requests a minute, and the SDKs wait when told to."""


def evaluate_hosted(run: RunFolder, data: str | None = None) -> Evaluation:
    """Compare the run's hosted model with its base on the held-out rows, or on `data`; the result is also written.

    Raises RunError when the job has not succeeded or there are no rows, DataError or ProviderError.
    """
    started = time.monotonic()
    job = read_state(run).job
    if job.status != "succeeded" or job.tuned_model is None:
        raise RunError(f"{run.root}: the job has not succeeded ({job.status}), so there is no model to evaluate")
    place = find_provider(read_state(run).provider)
    path = _held_out(run) if data is None else data
    rows = [row for row in load(path) if reference(row)]
    if not rows:
        raise DataError(f"{path}: no row has a reply in text to compare with; give other rows by --data")
    chosen = _choose(len(rows))
    asked = [rows[index] for index in chosen]
    references = [reference(row) for row in asked]
    limit = _reply_tokens(references)
    base = _ask(place, job.model, asked, limit)
    tuned = _ask(place, job.tuned_model, asked, limit)
    task = infer_task(references)
    metrics = compare_replies(task, Systems(base, tuned), references)
    score = headline_score(task)
    evaluation = Evaluation(
        run=str(run.root),
        data=path,
        rows=len(asked),
        task=task,
        metrics=metrics,
        verdicts=(_judge(metrics[0]), *judge_training(read_events(run.events))),
        samples=tuple(
            Sample(index, shown_prompt(row.prompt), wanted, before, after, score(before, wanted), score(after, wanted))
            for index, row, wanted, before, after in zip(chosen, asked, references, base, tuned, strict=True)
        ),
        seconds=time.monotonic() - started,
    )
    storage.write_bytes(run.evaluation, msgspec.json.format(msgspec.json.encode(evaluation), indent=2))
    return evaluation


def _ask(place: Provider, model: str, rows: Sequence[Conversation], max_tokens: int) -> list[str]:
    def reply(row: Conversation) -> str:
        turns: Turns = write_messages([msgspec.structs.replace(m, weight=None, thinking=None) for m in row.prompt])
        return place.complete(model, turns, max_tokens=max_tokens)

    with ThreadPoolExecutor(CONCURRENT) as pool:
        return list(pool.map(reply, rows))


def _judge(headline: MetricComparison) -> Verdict:
    """Whether it helped, by the replies: `judge_help` without the loss, of which an endpoint tells nothing."""
    verdict = judge_help(headline, headline)
    return msgspec.structs.replace(verdict, evidence=verdict.evidence.partition("; loss")[0])


def _held_out(run: RunFolder) -> str:
    if run.holdout.is_file():
        return str(run.holdout)
    named = run.load_spec().data.eval
    if named is None:
        raise RunError(f"{run.root}: the run held no rows out (data.holdout: 0); give rows with --data FILE")
    return named


def _choose(rows: int) -> list[int]:
    """All rows, or a seeded sample of `MAX_REPLIES`."""
    if rows <= MAX_REPLIES:
        return list(range(rows))
    return sorted(int(row) for row in np.random.default_rng(SEED).choice(rows, MAX_REPLIES, replace=False))


def _reply_tokens(references: Sequence[str]) -> int:
    """Room for the longest reference: hardly any text has more than a token for every two characters."""
    return min(512, max(len(reference) for reference in references) // 2 + 16)
