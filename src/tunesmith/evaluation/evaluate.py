"""Did it help: base against tuned on the same held-out rows, written to the run's `evaluation.json`.

Every row is scored for loss; replies are generated for at most `MAX_REPLIES` of them, a seeded sample whose size the
result states. The base costs no second model: it is the tuned one with its adapter off (a fully fine-tuned model and
its base are loaded one after the other, so memory holds one at a time).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np

from tunesmith import storage
from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.read import load
from tunesmith.dataset.render import Rendered, Renderer
from tunesmith.errors import DataError, RunError
from tunesmith.evaluation.comparison import compare_losses, compare_replies, headline_score
from tunesmith.evaluation.metrics import infer_task
from tunesmith.evaluation.result import Evaluation, MetricComparison, Sample, Verdict
from tunesmith.evaluation.verdicts import judge_fit, judge_help, judge_retention, read_curves
from tunesmith.models.load import EMBEDDED, load_model, load_tokenizer, load_tuned
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from tunesmith.evaluation.losses import RowLosses
    from tunesmith.models.load import Model

MAX_REPLIES = 256
"""Replies generated per model; a proportion is then known within about 6 points, and a slow model still ends."""

MAX_NEW_TOKENS = 512
"""No reply is longer; shorter references lower it (see `_reply_tokens`)."""

SEED = 0
"""Chooses the rows that get a reply when there are more than `MAX_REPLIES`."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Measured:
    """What one model scored and said."""

    losses: "RowLosses"
    retention: "RowLosses | None"
    replies: list[str]


def evaluate(run: RunFolder, data: str | None = None) -> Evaluation:
    """Compare `run`'s tuned model with its base on the run's held-out rows, or on `data`; the result is also written.

    Raises RunError when the run has no held-out rows or a loss is not finite, DataError or ModelError.
    """
    started = time.monotonic()
    spec = run.load_spec()
    path = _held_out(run, spec) if data is None else data
    rows = load(path)
    if not rows:
        raise DataError(f"{path}: no rows to evaluate on; give a file with rows by --data")
    tokenizer = load_tokenizer(spec.model)
    renderer = Renderer(tokenizer)
    answerable = [index for index, row in enumerate(rows) if _reference(row)]
    asked = _choose(answerable)
    references = [_reference(rows[index]) for index in asked]
    rendered = _render(renderer, rows, spec)
    general = _render(renderer, _retention_rows(), spec) if spec.model == EMBEDDED else []
    prompts = [renderer.prompt(rows[index]) for index in asked]

    def measure(model: "Model") -> _Measured:
        from tunesmith.evaluation.generate import generate
        from tunesmith.evaluation.losses import row_losses

        return _Measured(
            losses=row_losses(model, rendered),
            retention=row_losses(model, general) if general else None,
            replies=generate(model, tokenizer, prompts, max_new_tokens=_reply_tokens(tokenizer, references)),
        )

    base, tuned = _on_both(run, spec, measure)
    if not np.isfinite([base.losses.nll, tuned.losses.nll]).all():
        raise RunError(f"{run.root}: the loss on {path} is not finite; train again with a lower learning rate")
    task = infer_task([reference for reference in map(_reference, rows) if reference])
    losses = compare_losses(base.losses, tuned.losses)
    compared = compare_replies(task, base.replies, tuned.replies, references) if asked else ()
    replies = [_say_if_sampled(metric, len(answerable)) for metric in compared]
    retention = _compare_retention(base, tuned)
    evaluation = Evaluation(
        run=str(run.root),
        data=path,
        rows=len(rows),
        task=task if asked else "plain text",
        metrics=(*replies, *losses, *retention),
        verdicts=_judge(run, (*replies, *losses), retention),
        samples=_samples(rows, asked, references, base.replies, tuned.replies, headline_score(task)),
        seconds=time.monotonic() - started,
    )
    storage.write_bytes(run.evaluation, msgspec.json.format(msgspec.json.encode(evaluation), indent=2))
    return evaluation


def _held_out(run: RunFolder, spec: RunSpec) -> str:
    if run.holdout.is_file():
        return str(run.holdout)
    if spec.data.eval is not None:
        return spec.data.eval
    raise RunError(
        f"{run.root}: the run held no rows out (data.holdout: 0); evaluate on rows it has not seen with --data FILE"
    )


def _choose(answerable: list[int]) -> list[int]:
    """The rows to generate replies for: all of `answerable`, or a seeded sample of `MAX_REPLIES`."""
    if len(answerable) <= MAX_REPLIES:
        return answerable
    chosen = np.random.default_rng(SEED).choice(len(answerable), MAX_REPLIES, replace=False)
    return [answerable[place] for place in sorted(chosen)]


def _say_if_sampled(metric: MetricComparison, answerable: int) -> MetricComparison:
    if metric.rows == answerable:
        return metric
    note = f"replies to a sample of {metric.rows} of {answerable} rows, seed {SEED}"
    return msgspec.structs.replace(metric, method=f"{metric.method}; {note}")


def _reference(row: Conversation) -> str:
    """The text that the prompt should be answered with; empty for plain text and for tool calls."""
    answer = row.completion[0] if row.completion else None
    return answer.content.strip() if answer is not None and answer.role == "assistant" else ""


def _render(renderer: Renderer, rows: Sequence[Conversation], spec: RunSpec) -> list[Rendered]:
    return [renderer.render(row, max_length=spec.training.max_length) for row in rows]


def _retention_rows() -> list[Conversation]:
    from tunesmith.assets import sample

    return load(sample("retention"))


def _reply_tokens(tokenizer: "PreTrainedTokenizerBase", references: Sequence[str]) -> int:
    """Room for the longest reference and a quarter more, so that rambling shows and costs little."""
    longest = max((len(tokenizer.encode(text, add_special_tokens=False)) for text in references), default=0)
    return min(MAX_NEW_TOKENS, longest + longest // 4 + 8)


def _on_both(run: RunFolder, spec: RunSpec, measure: "Callable[[Model], _T]") -> tuple[_T, _T]:
    """`measure` of the base and of the tuned model."""
    import torch
    from peft import PeftModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = _dtype(spec, device)
    model = load_tuned(run, dtype=dtype, device=device)
    tuned = measure(model)
    if isinstance(model, PeftModel):
        with model.disable_adapter():
            return measure(model), tuned
    del model
    return measure(load_model(spec.model, dtype=dtype, device=device)), tuned


def _dtype(spec: RunSpec, device: str) -> "torch.dtype":
    """bf16 where asked for or where a GPU multiplies it fast, else fp32."""
    import torch

    fast = device == "cuda" and torch.cuda.is_bf16_supported()
    wants_bf16 = spec.training.precision == "bf16" or (spec.training.precision == "auto" and fast)
    return torch.bfloat16 if wants_bf16 else torch.float32


def _compare_retention(base: _Measured, tuned: _Measured) -> tuple[MetricComparison, ...]:
    if base.retention is None or tuned.retention is None:
        return ()
    loss, _ = compare_losses(base.retention, tuned.retention)
    return (msgspec.structs.replace(loss, name="general loss"),)


def _judge(
    run: RunFolder, metrics: tuple[MetricComparison, ...], retention: tuple[MetricComparison, ...]
) -> tuple[Verdict, ...]:
    loss = next(metric for metric in metrics if metric.name == "loss")
    return (
        judge_help(metrics[0], loss),
        judge_fit(read_curves(run.events)),
        *(judge_retention(metric) for metric in retention),
    )


def _samples(
    rows: Sequence[Conversation],
    asked: Sequence[int],
    references: Sequence[str],
    base: Sequence[str],
    tuned: Sequence[str],
    score: Callable[[str, str], float],
) -> tuple[Sample, ...]:
    return tuple(
        Sample(
            row=index,
            prompt=_shown_prompt(rows[index].prompt),
            reference=reference,
            base=before,
            tuned=after,
            base_score=score(before, reference),
            tuned_score=score(after, reference),
        )
        for index, reference, before, after in zip(asked, references, base, tuned, strict=True)
    )


def _shown_prompt(messages: tuple[Message, ...]) -> str:
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)
