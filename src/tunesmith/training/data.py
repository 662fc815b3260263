"""From the spec's data to what the loop reads: rendered training rows, rendered validation rows, the rows held out."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.formats import find_format
from tunesmith.dataset.render import Rendered, Renderer
from tunesmith.dataset.run_rows import read_rows
from tunesmith.errors import DataError
from tunesmith.spec import DpoSpec, GrpoSpec, PpoSpec, RewardSpec, RlhfSpec, RunSpec, SftSpec
from tunesmith.training.batches import Example, Row
from tunesmith.training.preference import Judged, Pair, both_replies, must_be_judged
from tunesmith.training.prompt import Prompt


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
    rows = read_rows(spec.data, spec.training.seed)
    examples, rendered = _examples(spec, renderer, rows.train)
    supervised = sum(int(row.supervised.sum()) for row in rendered)
    lost = sum(row.supervised_lost for row in rendered)
    return TrainingData(
        train=examples,
        validation=_examples(spec, renderer, rows.validation)[0],
        holdout=tuple(rows.holdout),
        truncated_rows=sum(row.truncated for row in rendered),
        supervised_tokens_lost=lost / max(1, supervised + lost),
    )


def encode_rows(rows: Sequence[Conversation]) -> bytes:
    """`rows` as JSONL, each in the format that it was read from, so that nothing of it is lost."""
    lines = []
    for row in rows:
        row_format = find_format(row.source.format if row.source is not None else "openai")
        lines.append(msgspec.json.encode(row_format.write(row), enc_hook=str) + b"\n")
    return b"".join(lines)


def _examples(
    spec: RunSpec, renderer: Renderer, rows: Sequence[Conversation]
) -> tuple[tuple[Example, ...], list[Rendered]]:
    """What the objective learns from, made of `rows`, and all that was rendered for it."""
    match spec.objective:
        case DpoSpec(loss_type="kto"):
            must_be_judged(rows)
            rendered = _render(renderer, rows, spec.training.max_length)
            # The prompt of each row with the reply of the one before it (TRL does so within a batch).
            swapped = [_with_reply_of(row, rows[index - 1]) for index, row in enumerate(rows)]
            mismatched = _render(renderer, swapped, spec.training.max_length)
            judged = [
                Judged(_row(own), _row(other), bool(row.desirable))
                for own, other, row in zip(rendered, mismatched, rows, strict=True)
            ]
            return tuple(judged), rendered
        case GrpoSpec() | PpoSpec() as online:
            return tuple(_prompts(spec, renderer, rows, online.max_completion_length)), []
        case RlhfSpec():
            raise AssertionError("rlhf is two runs, each with an objective of its own")
        case DpoSpec() | RewardSpec():
            rendered = _render(renderer, both_replies(rows), spec.training.max_length)
            replies = [_row(row) for row in rendered]
            return tuple(map(Pair, replies[0::2], replies[1::2])), rendered
        case SftSpec():
            _refuse_undesirable(rows)
            rendered = _render(renderer, rows, spec.training.max_length)
            return tuple(_row(row) for row in rendered), rendered


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
            answer = _row(rendered) if rendered.supervised[1:].any() else None
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
    rendered = list(renderer.render_many(rows, max_length=max_length))
    untrained = [row for row, tokens in zip(rows, rendered, strict=True) if not tokens.supervised[1:].any()]
    if untrained:
        more = f" (and {len(untrained) - 1:,} more rows)" if len(untrained) > 1 else ""
        raise DataError(
            f"{untrained[0].source}: no token to train on is left within {max_length} tokens{more}; "
            "raise training.max_length, or shorten or remove the row"
        )
    return rendered


def _row(rendered: Rendered) -> Row:
    return Row(rendered.tokens, rendered.supervised)
