"""Did it help: base, prompted base and tuned on the same held-out rows, written to the run's `evaluation.json`.

Every row is scored for loss; replies are generated for at most `MAX_REPLIES` of them, a seeded sample whose size the
result states. Which metrics are computed follows from what the rows are (`metrics.infer_task`), from what they carry
(tests of code), and from what was asked for (an encoder, a judge, a metric of the person's own).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from tunesmith import storage
from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.prompting import reference
from tunesmith.dataset.read import load
from tunesmith.errors import DataError, RunError, SpecError
from tunesmith.evaluation import metrics
from tunesmith.evaluation.asked_metrics import AskedMetrics, Request
from tunesmith.evaluation.comparison import (
    Systems,
    compare_system_losses,
    confusion,
)
from tunesmith.evaluation.evaluated_rows import MAX_REPLIES, choose, held_out, training_rows
from tunesmith.evaluation.evidence import AdapterState, Evidence, Leak, Memory
from tunesmith.evaluation.measure import Measured, Questions, measure
from tunesmith.evaluation.metrics import Task, infer_task
from tunesmith.evaluation.prompted import best_prompt
from tunesmith.evaluation.result import DRIFT, GENERAL_LOSS, Evaluation, MetricComparison, Verdict
from tunesmith.evaluation.said import compare_said, samples, say_if_sampled
from tunesmith.evaluation.verdicts import judge
from tunesmith.models.load import EMBEDDED, load_tokenizer
from tunesmith.quality.checklist import check
from tunesmith.quality.leakage import leaked_rows
from tunesmith.quality.report import CheckReport
from tunesmith.quality.rows import RowWriter
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec
from tunesmith.training.events import Event, StartEvent, read_events

MAX_NEW_TOKENS = 512
"""No reply is longer; shorter references lower it (see `_reply_tokens`)."""

TRAINED_ROWS = 48
"""Training rows that are asked again, to see whether they were learned by heart."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Options:
    """What else is wanted: `prompt` is a file with a prompt for the base, `advice` what `tunesmith advise` wrote.

    `samples` replies to each row are for pass@k.
    """

    prompt: str | None = None
    advice: str | None = None
    samples: int = 1
    request: Request = field(default_factory=Request)


def evaluate(run: RunFolder, data: str | None = None, options: Options | None = None) -> Evaluation:
    """Compare `run`'s tuned model with its base on the run's held-out rows, or on `data`; the result is also written.

    Raises RunError when the run has no held-out rows or a loss is not finite, DataError, ModelError, SpecError for an
    option, MissingDependencyError, SandboxError.
    """
    started = time.monotonic()
    options = options or Options()
    if options.samples < 1:
        raise SpecError(f"--samples {options.samples}: give 1 or more")
    spec = run.load_spec()
    path = held_out(run, spec) if data is None else data
    rows = load(path)
    if not rows:
        raise DataError(f"{path}: no rows to evaluate on; give a file with rows by --data")
    recipe = best_prompt(run, options.prompt, options.advice)
    asked_metrics = AskedMetrics(options.request, options.samples)
    answerable = [index for index, row in enumerate(rows) if reference(row)]
    asked = choose(answerable, MAX_REPLIES)
    references = [reference(rows[index]) for index in asked]
    training = training_rows(run, spec)
    trained = [
        training[index] for index in choose([i for i, row in enumerate(training) if reference(row)], TRAINED_ROWS)
    ]
    tokenizer = load_tokenizer(spec.model)

    def reply_tokens(texts: Sequence[str]) -> int:
        """Room for the longest reference and a quarter more, so that rambling shows and costs little."""
        longest = max((len(tokenizer.encode(text, add_special_tokens=False)) for text in texts), default=0)
        return min(MAX_NEW_TOKENS, longest + longest // 4 + 8)

    measured = measure(
        run,
        spec,
        tokenizer,
        Questions(
            rows=rows,
            asked=[rows[index] for index in asked],
            trained=trained,
            retention=_retention_rows(spec) if spec.model == EMBEDDED else [],
            recipe=recipe,
            examples=training,
            reply_tokens=reply_tokens(references),
            trained_reply_tokens=reply_tokens([reference(row) for row in trained]),
            samples=options.samples,
            harness=asked_metrics.harness,
        ),
    )
    losses = _of_each(measured, lambda one: one.losses)
    if not np.isfinite([losses.base.nll, losses.tuned.nll]).all():
        raise RunError(f"{run.root}: the loss on {path} is not finite; train again with a lower learning rate")

    task = kind_of(rows, training if data is None else [])
    replies = _of_each(measured, lambda one: one.replies)
    compared: list[MetricComparison] = []
    skipped: list[str] = []
    if asked:
        sampled = _of_each(measured, lambda one: one.sampled)
        compared, skipped = compare_said(task, [rows[index] for index in asked], replies, asked_metrics, sampled)
    tasks = (
        []
        if asked_metrics.harness is None
        else asked_metrics.harness.compare(measured.base.tasks, measured.tuned.tasks)
    )
    metrics_found = (
        *(say_if_sampled(metric, len(answerable)) for metric in compared),
        *compare_system_losses(losses),
        *_general(measured),
        *tasks,
    )
    evaluation = Evaluation(
        run=str(run.root),
        data=path,
        rows=len(rows),
        task=("code" if compared and compared[0].name.startswith("pass@") else task) if asked else "plain text",
        metrics=metrics_found,
        verdicts=_judge(run, spec, measured, metrics_found, tasks, rows, training, trained, references),
        samples=samples(task, rows, asked, replies),
        seconds=time.monotonic() - started,
        prompt=None if recipe is None else recipe.instruction,
        examples=0 if recipe is None else recipe.examples,
        confusion=confusion(replies, references) if asked and task == "classification" else None,
        skipped=tuple(skipped),
    )
    storage.write_bytes(run.evaluation, msgspec.json.format(msgspec.json.encode(evaluation), indent=2))
    return evaluation


def _retention_rows(spec: RunSpec) -> list[Conversation]:
    """General rows that show what was forgotten; a row that was replayed in training shows nothing."""
    from tunesmith.assets import sample

    try:
        replayed = {row.messages for row in load(spec.data.replay)} if spec.data.replay is not None else set()
    except DataError:
        replayed = set()
    return [row for row in load(sample("retention")) if row.messages not in replayed]


def _of_each(measured: Systems[Measured], part: Callable[[Measured], _T]) -> Systems[_T]:
    prompted = None if measured.prompted is None else part(measured.prompted)
    return Systems(part(measured.base), part(measured.tuned), prompted)


def _general(measured: Systems[Measured]) -> list[MetricComparison]:
    """Loss on the retention suite, and on the base's own replies to general prompts."""
    found = []
    for name, base, tuned in (
        (GENERAL_LOSS, measured.base.retention, measured.tuned.retention),
        (DRIFT, measured.base.drift, measured.tuned.drift),
    ):
        if base is not None and tuned is not None:
            loss, _ = compare_system_losses(Systems(base, tuned))
            found.append(msgspec.structs.replace(loss, name=name))
    return found


def kind_of(rows: Sequence[Conversation], training: Sequence[Conversation]) -> Task:
    """The task that `rows` and the rows trained on show together: few held-out ones do not tell by themselves."""
    return infer_task([text for text in map(reference, [*training, *rows]) if text])


def _judge(
    run: RunFolder,
    spec: RunSpec,
    measured: Systems[Measured],
    found: tuple[MetricComparison, ...],
    tasks: Sequence[MetricComparison],
    rows: Sequence[Conversation],
    training: Sequence[Conversation],
    trained: Sequence[Conversation],
    references: Sequence[str],
) -> tuple[Verdict, ...]:
    by_name = {metric.name: metric for metric in found}
    events = read_events(run.events)
    return judge(
        Evidence(
            headline=found[0],
            loss=by_name["loss"],
            events=events,
            retention=by_name.get(GENERAL_LOSS),
            drift=by_name.get(DRIFT),
            tasks=tasks,
            memory=_memory(measured.base, measured.tuned, trained, references),
            leak=_leak(training, rows),
            check=_check(run, spec),
            adapter=_adapter(run, events),
        )
    )


def _memory(
    base: Measured, tuned: Measured, trained: Sequence[Conversation], references: Sequence[str]
) -> Memory | None:
    if not trained or tuned.trained is None or not tuned.trained.tokens.any() or not references:
        return None
    outputs = [reference(row) for row in trained]

    def verbatim(replies: Sequence[str], wanted: Sequence[str]) -> float:
        return float(metrics.scores(metrics.exact_match, replies, wanted).mean())

    return Memory(
        rows=len(trained),
        words=float(np.mean([len(output.split()) for output in outputs])),
        verbatim=verbatim(tuned.trained_replies, outputs),
        verbatim_base=verbatim(base.trained_replies, outputs),
        held_out=verbatim(tuned.replies, references),
        training_loss=float(tuned.trained.nll.sum() / tuned.trained.tokens.sum()),
        held_out_loss=float(tuned.losses.nll.sum() / tuned.losses.tokens.sum()),
    )


def _leak(training: Sequence[Conversation], rows: Sequence[Conversation]) -> Leak | None:
    if not training:
        return None
    trained, evaluated = RowWriter(), RowWriter()
    trained.extend(training)
    evaluated.extend(rows)
    return Leak(len(leaked_rows(trained.rows(), evaluated.rows())), len(rows))


def _check(run: RunFolder, spec: RunSpec) -> CheckReport | None:
    """The checklist's report of the run; made now where it has none and its training file is still there."""
    if not run.check.is_file():
        return check([spec.data.train]) if Path(spec.data.train).is_file() else None
    try:
        return msgspec.json.decode(run.check.read_bytes(), type=CheckReport)
    except msgspec.DecodeError as error:
        raise RunError(f"{run.check}: cannot be read ({error}); remove it to evaluate without it") from error


def _adapter(run: RunFolder, events: Sequence[Event]) -> AdapterState | None:
    if not run.adapter.is_dir():
        return None
    start = next((event for event in events if isinstance(event, StartEvent)), None)
    told = start is not None and start.total_parameters > 0  # other tools' logs, and hosted providers', do not say
    trained = start.trainable_parameters / start.total_parameters if start is not None and told else None
    return AdapterState(run.merged.is_dir(), trained, str(run.root))
