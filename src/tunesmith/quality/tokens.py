"""Tokens as the model will see them: row lengths, what a limit cuts, what padding wastes, what an epoch costs.

Every row is rendered through the model's chat template, as training does, so the counts are those of the run. It is
by far the slowest check (a few thousand rows a second and core), and only runs where a model is given.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tunesmith.dataset.lengths import cheapest_cuts
from tunesmith.errors import DataError
from tunesmith.quality.check import SHOWN_ROWS, Flags, Profile, Row, counted, distribution, share
from tunesmith.quality.report import Finding, RowNote
from tunesmith.spec import TrainingSpec

if TYPE_CHECKING:
    from tunesmith.dataset.render import Rendered, Renderer

Counts: TypeAlias = NDArray[np.int64]

KEPT_SHARE = 0.99
"""Of the trained tokens, by the length limit that is proposed; the last hundredth sits in a few freaks."""

BATCH_ROWS = TrainingSpec().batch_size
SAMPLED_STEPS = 2_000
"""Optimizer steps of a shuffled epoch whose padding is counted."""


class TokenFacts(Struct):
    """What one batch adds: each row's tokens and trained tokens, and how many trained tokens stand at each place."""

    lengths: Counts  # (rows,)
    trained: Counts  # (rows,)
    trained_at: Counts  # (longest,)
    refused: Flags


class TokensCheck:
    """A `RowCheck`: lengths in tokens of `model`. Raises ModelError when the model has no usable tokenizer."""

    def __init__(self, model: str) -> None:
        self._model = model
        _renderer(model)  # before the pass: a model that is not there is told at once, and forked workers inherit it
        self._lengths: list[Counts] = []
        self._trained: list[Counts] = []
        self._trained_at: Counts = np.zeros(0, np.int64)
        self._refused, self._untrained, self._cut = Flags(), Flags(), Flags()

    def observe(self, rows: Sequence[Row]) -> TokenFacts:
        """Render a batch and count."""
        facts = TokenFacts(np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64), np.zeros(0, np.int64), Flags())
        for place, rendered in enumerate(_render(_renderer(self._model), rows, facts.refused)):
            if rendered is not None:
                facts.lengths[place] = len(rendered.tokens)
                facts.trained[place] = np.count_nonzero(rendered.supervised)
                facts.trained_at = _add(facts.trained_at, rendered.supervised.astype(np.int64))
        return facts

    def add(self, observed: TokenFacts) -> None:
        """Gather one batch."""
        self._lengths.append(observed.lengths.astype(np.int32))
        self._trained.append(observed.trained.astype(np.int32))
        self._trained_at = _add(self._trained_at, observed.trained_at)
        self._refused.extend(observed.refused)

    def findings(self, profile: Profile) -> tuple[Finding, ...]:
        """Lengths and cost; besides, rows that the template refuses and rows with nothing to train on."""
        lengths = np.concatenate([np.empty(0, np.int32), *self._lengths])
        trained = np.concatenate([np.empty(0, np.int32), *self._trained])
        found = []
        if self._refused.count:
            found.append(_refused(self._model, self._refused, len(lengths)))
        usable = lengths > 0
        if usable.any():
            silent = np.flatnonzero(usable & (trained == 0))
            if len(silent):
                found.append(_silent(silent, profile))
            found.insert(0, self._costs(lengths, trained, profile))
        return tuple(found)

    def _costs(self, all_lengths: NDArray[np.int32], trained: NDArray[np.int32], profile: Profile) -> Finding:
        lengths = all_lengths[all_lengths > 0].astype(np.int64)
        median, p95, p99 = (int(np.ceil(value)) for value in np.percentile(lengths, [50, 95, 99]))
        total, longest, trained_total = int(lengths.sum()), int(lengths.max()), int(trained.sum())
        fits = _fitting_length(self._trained_at)
        limit = _usual_limit(self._model)
        lost = int(self._trained_at[limit:].sum())
        cut = np.flatnonzero(all_lengths > limit)
        plain, grouped = padding_waste(lengths)
        facts = {
            "tokens_per_epoch": total,
            "trained_tokens_per_epoch": trained_total,
            "median": median,
            "p95": p95,
            "p99": p99,
            "longest": longest,
            "max_length_that_keeps_99_percent": fits,
            f"rows_cut_at_{limit}": len(cut),
            f"trained_tokens_cut_at_{limit}": lost,
            "padding_of_plain_batches": round(plain, 4),
            "padding_of_grouped_batches": round(grouped, 4),
            "rows_per_length_in_tokens": distribution(lengths),
        }
        finding = (
            f"{total:,} tokens an epoch, {share(trained_total, total)} of them trained; rows have {median:,} at the "
            f"median, {p99:,} at the 99th percentile, {longest:,} at most; max_length {fits:,} keeps 99% of what is "
            f"trained; padding wastes {plain:.0%} of plain batches of {BATCH_ROWS}, {grouped:.0%} of the engine's"
        )
        if lost <= (1 - KEPT_SHARE) * trained_total:
            return Finding("tokens", "pass", finding, facts=facts)
        return Finding(
            "tokens",
            "warn",
            f"{finding}; a max_length of {limit:,} cuts {len(cut):,} rows and loses "
            f"{share(lost, trained_total)} of the trained tokens",
            count=len(cut),
            rows=tuple(
                RowNote(profile.rows.where(row), f"{all_lengths[row]:,} tokens") for row in cut[:SHOWN_ROWS].tolist()
            ),
            mend=f"raise training.max_length to {fits:,} if the model's context and memory allow, or shorten the rows",
            command=f"tunesmith train run.yaml --set training.max_length={fits}",
            facts=facts,
        )


def padding_waste(lengths: Counts, batch_rows: int = BATCH_ROWS) -> tuple[float, float]:
    """The share of padding when shuffled batches are padded whole, and when each is cut into micro-batches by length.

    Counted over the first steps of one seeded epoch; `lengths` in tokens, (rows,).
    """
    order = np.random.default_rng(0).permutation(len(lengths))[: SAMPLED_STEPS * batch_rows]
    tokens = plain = grouped = 0
    for start in range(0, len(order), batch_rows):
        step = np.sort(lengths[order[start : start + batch_rows]])
        tokens += int(step.sum())
        plain += int(step[-1]) * len(step)
        ends = cheapest_cuts(step.tolist())
        grouped += sum(int(step[end - 1]) * (end - begin) for begin, end in zip([0, *ends], ends, strict=False))
    return 1 - tokens / max(plain, 1), 1 - tokens / max(grouped, 1)


@functools.lru_cache(maxsize=1)
def _renderer(model: str) -> "Renderer":
    from tunesmith.dataset.render import Renderer
    from tunesmith.models.load import load_tokenizer

    return Renderer(load_tokenizer(model))


@functools.lru_cache(maxsize=1)
def _usual_limit(model: str) -> int:
    """The default of `training.max_length`, or the model's context where that is shorter."""
    from transformers import AutoConfig

    from tunesmith.models.load import resolve_model

    config = AutoConfig.from_pretrained(resolve_model(model), trust_remote_code=False)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(TrainingSpec().max_length, context or TrainingSpec().max_length)


def _render(renderer: "Renderer", rows: Sequence[Row], refused: Flags) -> "list[Rendered | None]":
    """Each row rendered; None, and a flag, where the chat template refuses it."""
    try:
        return list(renderer.render_many(row.conversation for row in rows))
    except DataError:
        if len(rows) > 1:
            return [rendered for row in rows for rendered in _render(renderer, [row], refused)]
    try:
        renderer.render(rows[0].conversation)
    except DataError as error:
        reason = str(error).removeprefix(f"{rows[0].where}: ")
        refused.flag(rows[0], reason)
    return [None]


def _fitting_length(trained_at: Counts) -> int:
    """The shortest limit under which `KEPT_SHARE` of the trained tokens stand."""
    kept = np.cumsum(trained_at)
    return int(np.searchsorted(kept, KEPT_SHARE * kept[-1])) + 1


def _add(one: Counts, other: Counts) -> Counts:
    """The sum of two counts per place, as long as the longer of them."""
    short, long = sorted((one, other), key=len)
    total = long.copy()
    total[: len(short)] += short
    return total


def _refused(model: str, flags: Flags, rows: int) -> Finding:
    return Finding(
        "tokens: template",
        "fail",
        counted(flags.count, f"are refused by the chat template of {model}", whole=rows),
        count=flags.count,
        rows=flags.notes(),
        mend="bring their turns into the order the template asks for, or train a model with another template",
    )


def _silent(silent: NDArray[np.int64], profile: Profile) -> Finding:
    return Finding(
        "tokens: untrained",
        "fail",
        counted(len(silent), "have no token to train on", whole=len(profile.rows)),
        count=len(silent),
        rows=tuple(
            RowNote(profile.rows.where(row), "every assistant turn has weight 0 or says nothing")
            for row in silent[:SHOWN_ROWS].tolist()
        ),
        mend="give at least one assistant turn of each row its weight back, or drop the rows",
    )
