"""From the spec's data to what the loop reads: rendered training rows, rendered validation rows, the rows held out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.formats import find_format
from tunesmith.dataset.read import load
from tunesmith.dataset.render import Rendered, Renderer
from tunesmith.dataset.split import split
from tunesmith.errors import DataError
from tunesmith.spec import RunSpec
from tunesmith.training.batches import Example, Row


@dataclass(frozen=True)
class TrainingData:
    """`holdout` are the rows that were split off for validation (none when the spec names an eval file).

    `supervised_tokens_lost` is the share of the training rows' supervised tokens that `max_length` cut off.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    holdout: tuple[Conversation, ...]
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
    """Read, split and render what `spec.data` names. Raises DataError naming the row that cannot be trained on."""
    train: Sequence[Conversation] = load(spec.data.train)
    _refuse_undesirable(train)
    holdout: Sequence[Conversation] = ()
    validation: Sequence[Conversation] = ()
    if spec.data.eval is not None:
        validation = load(spec.data.eval)
    elif spec.data.holdout > 0:
        parts = split(train, spec.data.holdout, spec.training.seed)
        train, holdout = parts.train, parts.holdout
        validation = holdout
    rendered = _render(renderer, train, spec.training.max_length)
    supervised = sum(int(row.supervised.sum()) for row in rendered)
    lost = sum(row.supervised_lost for row in rendered)
    return TrainingData(
        train=_rows(rendered),
        validation=_rows(_render(renderer, validation, spec.training.max_length)),
        holdout=tuple(holdout),
        truncated_rows=sum(row.truncated for row in rendered),
        supervised_tokens_lost=lost / (supervised + lost),
    )


def encode_rows(rows: Sequence[Conversation]) -> bytes:
    """`rows` as JSONL, each in the format that it was read from, so that nothing of it is lost."""
    lines = []
    for row in rows:
        row_format = find_format(row.source.format if row.source is not None else "openai")
        lines.append(msgspec.json.encode(row_format.write(row), enc_hook=str) + b"\n")
    return b"".join(lines)


def _refuse_undesirable(rows: Sequence[Conversation]) -> None:
    """Supervised fine-tuning imitates every row, so a reply that was judged bad must not be among them."""
    for row in rows:
        if row.desirable is False:
            raise DataError(f"{row.source}: labelled as a reply not to imitate; remove the row to train on the rest")


def _render(renderer: Renderer, rows: Sequence[Conversation], max_length: int) -> list[Rendered]:
    rendered = list(renderer.render_many(rows, max_length=max_length))
    untrained = [row for row, tokens in zip(rows, rendered, strict=True) if not tokens.supervised[1:].any()]
    if untrained:
        more = f" (and {len(untrained) - 1:,} more rows)" if len(untrained) > 1 else ""
        raise DataError(
            f"{untrained[0].source}: no token to train on is left within {max_length} tokens{more}; "
            "raise training.max_length, or shorten or remove the row"
        )
    return rendered


def _rows(rendered: Sequence[Rendered]) -> tuple[Row, ...]:
    return tuple(Row(row.tokens, row.supervised) for row in rendered)
