"""From the spec's data to what the loop reads: rendered training rows, rendered validation rows, the rows held out."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from tunesmith.dataset.containers.json_text import encode
from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.formats import write_row
from tunesmith.dataset.render import Rendered, Renderer
from tunesmith.dataset.render_parallel import render_rows
from tunesmith.dataset.run_rows import read_rows
from tunesmith.errors import DataError
from tunesmith.spec import DpoSpec, GrpoSpec, PpoSpec, RewardSpec, RunSpec, SftSpec
from tunesmith.training.batches import Example, Row
from tunesmith.training.preference import Judged, Pair, both_replies, must_be_judged
from tunesmith.training.prompt import Prompt
from tunesmith.training.tokenized import Tokenized, cached


@dataclass(frozen=True)
class TrainingData:
    """`holdout` are the rows that were split off for validation, as JSONL (none when the spec names an eval file).

    `supervised_tokens_lost` is the share of the training rows' supervised tokens that `max_length` cut off.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    holdout: bytes
    truncated_rows: int
    supervised_tokens_lost: float

    @property
    def digest(self) -> str:
        """Identifies the training rows as the model sees them, in their order."""
        digest = hashlib.blake2b(digest_size=16)
        for row in (row for example in self.train for row in example.rows):
            digest.update(len(row.tokens).to_bytes(8, "little") + row.tokens.tobytes() + row.supervised.tobytes())
        return digest.hexdigest()


def prepare_data(spec: RunSpec, renderer: Renderer) -> TrainingData:
    """Read, split and render what `spec.data` names, or take it from the cache.

    Raises DataError naming the row that cannot be trained on.
    """
    if isinstance(spec.objective, GrpoSpec | PpoSpec):
        rows = read_rows(spec.data, spec.training.seed)
        prompts = [
            tuple(_prompts(spec, renderer, part, spec.objective.max_completion_length))
            for part in (rows.train, rows.validation)
        ]
        return TrainingData(prompts[0], prompts[1], encode_rows(rows.holdout), 0, 0.0)
    tokens = cached(spec, renderer, lambda: _tokenize(spec, renderer))
    judgements = iter(tokens.judgements)
    train, validation = (_examples(spec, part, judgements) for part in (tokens.train, tokens.validation))
    # KTO's mismatched replies, every other row, are not what is learned.
    learned = tokens.train[::2] if tokens.judgements else tokens.train
    supervised = sum(int(row.supervised.sum()) for row in learned)
    lost = sum(row.supervised_lost for row in learned)
    return TrainingData(
        train=train,
        validation=validation,
        holdout=tokens.holdout,
        truncated_rows=sum(row.truncated for row in learned),
        supervised_tokens_lost=lost / max(1, supervised + lost),
    )


def encode_rows(rows: Sequence[Conversation]) -> bytes:
    """`rows` as JSONL, each in the format that it was read from, so that nothing of it is lost."""
    written = (write_row(row, row.source.format if row.source is not None else "openai") for row in rows)
    return b"".join(encode(row) + b"\n" for row in written)


def _tokenize(spec: RunSpec, renderer: Renderer) -> Tokenized:
    rows = read_rows(spec.data, spec.training.seed)
    train, validation = (
        _render(renderer, _replies(spec, part), spec.training.max_length) for part in (rows.train, rows.validation)
    )
    judged = [*rows.train, *rows.validation] if _is_kto(spec) else []
    return Tokenized(train, validation, [bool(row.desirable) for row in judged], encode_rows(rows.holdout))


def _replies(spec: RunSpec, rows: Sequence[Conversation]) -> Sequence[Conversation]:
    """The conversations to render: one for each of `rows`, or two in turn where the objective compares them."""
    match spec.objective:
        case DpoSpec(loss_type="kto"):
            must_be_judged(rows)
            # The prompt of each row with the reply of the one before it (TRL does so within a batch).
            return [each for index, row in enumerate(rows) for each in (row, _with_reply_of(row, rows[index - 1]))]
        case DpoSpec() | RewardSpec():
            return both_replies(rows)
        case SftSpec():
            _refuse_undesirable(rows)
            return rows
        case _:
            raise AssertionError("rlhf is two runs, and an online objective makes its own replies")


def _examples(spec: RunSpec, rendered: Sequence[Rendered], judgements: Iterator[bool]) -> tuple[Example, ...]:
    """What the objective learns from, made of the rendered replies."""
    rows = [Row(row.tokens, row.supervised) for row in rendered]
    if isinstance(spec.objective, SftSpec):
        return tuple(rows)
    pairs = zip(rows[0::2], rows[1::2], strict=True)
    if _is_kto(spec):
        return tuple(Judged(own, other, next(judgements)) for own, other in pairs)
    return tuple(Pair(chosen, rejected) for chosen, rejected in pairs)


def _is_kto(spec: RunSpec) -> bool:
    return isinstance(spec.objective, DpoSpec) and spec.objective.loss_type == "kto"


def _prompts(spec: RunSpec, renderer: Renderer, rows: Sequence[Conversation], completion: int) -> Iterator[Prompt]:
    """Each row's prompt, with its own reply as the answer where it has one."""
    for row in rows:
        tokens = renderer.prompt(row)
        if len(tokens) + completion > spec.training.max_length:
            raise DataError(
                f"{row.source}: a prompt of {len(tokens):,} tokens and a reply of {completion:,} do not fit into "
                f"{spec.training.max_length:,}; raise training.max_length or lower objective.max_completion_length"
            )
        answer = None
        if row.completion and row.desirable is not False:
            rendered = renderer.render(row, max_length=spec.training.max_length)
            answer = Row(rendered.tokens, rendered.supervised) if rendered.supervised[1:].any() else None
        yield Prompt(tuple(tokens), row, answer)


def _with_reply_of(row: Conversation, other: Conversation) -> Conversation:
    return msgspec.structs.replace(row, messages=(*row.prompt, *other.completion))


def _refuse_undesirable(rows: Sequence[Conversation]) -> None:
    """Supervised fine-tuning imitates every row, so a reply that was judged bad must not be among them."""
    for row in rows:
        if row.desirable is False:
            raise DataError(
                f"{row.source}: labelled as a reply not to imitate; remove the row, or learn from the label with "
                "objective: {kind: dpo, loss_type: kto}"
            )


def _render(renderer: Renderer, rows: Sequence[Conversation], max_length: int) -> list[Rendered]:
    rendered = list(render_rows(renderer, rows, max_length=max_length))
    untrained = [row for row, tokens in zip(rows, rendered, strict=True) if not tokens.supervised[1:].any()]
    if untrained:
        more = f" (and {len(untrained) - 1:,} more rows)" if len(untrained) > 1 else ""
        raise DataError(
            f"{untrained[0].source}: no token to train on is left within {max_length} tokens{more}; "
            "raise training.max_length, or shorten or remove the row"
        )
    return rendered
