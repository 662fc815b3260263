"""Cross-entropy only where a label is, without ever holding all logits.

A vocabulary of 128k makes logits the largest tensor of a step, and most positions are prompt or padding. So the
model runs its own forward with its head fed only the supervised positions (a hook on the head: right for every
architecture and adapter, since nothing of the model is re-implemented), and the head itself runs in chunks.
A frozen head computes its gradient in the same pass, as Liger Kernel does (https://arxiv.org/abs/2410.10989), for two
matrix products a chunk; a trained head takes three (`trained_head`), or is recomputed in the backward pass, for four.
"""

import functools
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig

from tunesmith.training.batches import E, Example, MicroBatch, Row
from tunesmith.training.cpu_kernels import cross_entropy
from tunesmith.training.forest_attention import forest_arguments, planted_where_possible
from tunesmith.training.lanes import Lanes, possible_lanes
from tunesmith.training.sharding import is_sharded
from tunesmith.training.shared_prefix import Forest
from tunesmith.training.stretches import Stretch, states_in_lanes, whole_forest
from tunesmith.training.token_budget import TokenBudget
from tunesmith.training.trained_head import fits, trained_head_losses

if TYPE_CHECKING:
    from tunesmith.models.load import Model

CHUNK_LOGITS = 2**24
"""Logits held at once (64 MiB in fp32)."""


AfterHead: TypeAlias = Callable[[Tensor], Tensor]


class TokenLoss:
    """Per-token losses of `model`, whose logits are divided by `temperature`.

    Making one runs the model on two tokens, to learn what it does after its head.
    """

    def __init__(self, model: "Model", chunk_logits: int = CHUNK_LOGITS, *, temperature: float = 1.0) -> None:
        self._model = model
        self._head = model.get_output_embeddings()
        self._chunk_logits = chunk_logits
        self._temperature = temperature
        self._made_lanes: dict[int, Lanes] = {}
        self._after_head = _after_head(model, self._head)
        self.sharded = is_sharded(model)
        self.budget = TokenBudget(model.device, sharded=self.sharded)
        """Of passes without a gradient."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._model.device

    def passes(self, examples: Sequence[E]) -> Iterator[tuple[MicroBatch[E], Tensor]]:
        """Micro-batches of `examples`, laid out as the model takes them, each with what `of` says of it."""
        cut = functools.partial(planted_where_possible, self._model)
        return self.budget.passes(examples, cut, lambda batch: self.of(batch.to(self.device)))

    def of(self, batch: MicroBatch[Example]) -> Tensor:
        """Negative log-likelihood, in nats, of the micro-batch's targets; fp32 (supervised,)."""
        return self(batch.input_ids, batch.positions, batch.targets, batch.forest)

    def __call__(self, input_ids: Tensor, positions: Tensor, targets: Tensor, forest: Forest | None = None) -> Tensor:
        """Negative log-likelihood, in nats, of `targets` as predicted at `positions`; fp32 (supervised,).

        `positions` index the flattened `input_ids` (rows, tokens); rows are padded on the right, unmasked. With a
        `forest`, `input_ids` (1, tokens) are its flat sequence.
        """
        lanes = Lanes(1) if forest is None else self._lanes()
        if forest is not None and self._after_head is not None and lanes.count > 1:

            def states_of(tokens: Tensor, places: Tensor, stretch: Stretch) -> Tensor:
                return self._states(tokens, places, stretch)[0]

            states = states_in_lanes(states_of, self._model, lanes, input_ids, positions, forest)
        else:
            whole = None if forest is None else whole_forest(forest)
            states, logits = self._states(input_ids, positions, whole)
            if self._after_head is None:  # an architecture that we do not know: its own logits, not in chunks
                return F.cross_entropy(logits[0].float() / self._temperature, targets, reduction="none")
        states, after_head = self._at_temperature(states, self._after_head)
        alone = not is_sharded(self._model)
        return head_losses(self._head, states, targets, after_head, self._chunk_logits, lanes, alone=alone)

    def _at_temperature(self, states: Tensor, after_head: AfterHead) -> tuple[Tensor, AfterHead]:
        """What the head is fed, and what follows it, so that the logits come out divided by the temperature."""
        if self._temperature == 1.0:
            return states, after_head
        if type(self._head) is nn.Linear and self._head.bias is None and after_head is unchanged:
            return states / self._temperature, after_head  # as good, and the head stays a plain one, which is faster
        return states, lambda logits: after_head(logits) / self._temperature

    def _lanes(self) -> Lanes:
        count = possible_lanes(self._model)
        if count not in self._made_lanes:
            self._made_lanes[count] = Lanes(count)
        return self._made_lanes[count]

    def _states(self, input_ids: Tensor, positions: Tensor, stretch: Stretch | None) -> tuple[Tensor, Tensor]:
        """What the head is fed at `positions`, (positions, hidden), and the logits: none, if we know the head."""
        captured: list[Tensor] = []
        lane = threading.get_ident()
        if stretch is not None and positions.device.type == "cpu":
            stretch = replace(stretch, read=torch.unique(positions))

        def select(_head: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if threading.get_ident() != lane:
                return None  # another lane runs the same head on its own stretch
            hidden = arguments[0][:, -input_ids.shape[1] :]  # (rows, tokens, hidden), without a soft prompt's places
            selected = hidden.flatten(0, 1).index_select(0, positions)  # (supervised, hidden)
            captured.append(selected)
            return (selected.unsqueeze(0) if self._after_head is None else hidden[:, :0], *arguments[1:])

        hook = self._head.register_forward_pre_hook(select)
        try:
            logits = self._model(input_ids=input_ids, use_cache=False, **forest_arguments(stretch, input_ids)).logits
        finally:
            hook.remove()
        return captured[0], logits


@torch.no_grad()
def token_logps(token_loss: TokenLoss, rows: Sequence[Row]) -> list[Tensor]:
    """Log-probabilities of each row's supervised tokens, without a gradient: a tensor (supervised,) per row."""
    found: dict[int, Tensor] = {}
    indexed = [_Indexed(index, row) for index, row in enumerate(rows)]
    for batch, losses in token_loss.passes(indexed):
        counts = [example.row.targets for example in batch.examples]
        parts = zip(batch.examples, torch.split(-losses, counts), strict=True)
        found |= {example.index: part for example, part in parts}
    return [found[index] for index in range(len(rows))]


def row_logps(token_loss: TokenLoss, rows: Sequence[Row]) -> Tensor:
    """Log-probability of each row's supervised tokens, without a gradient; fp64 (rows,) on the CPU.

    Their differences are small beside them: summed in fp32, how rows are cut would show.
    """
    return torch.stack([logps.cpu().sum(dtype=torch.float64) for logps in token_logps(token_loss, rows)])


def to_send(parts: Sequence[Tensor]) -> list[Tensor]:
    """`parts` of a tensor on the CPU, without the rest of it, which would be sent to other ranks with each of them."""
    return [part.cpu().clone() for part in parts]


@dataclass(frozen=True)
class _Indexed:
    """A row that knows its place, since micro-batches are ordered by length."""

    index: int
    row: Row

    @property
    def rows(self) -> tuple[Row, ...]:
        return (self.row,)


def unchanged(logits: Tensor) -> Tensor:
    """What most architectures do to their head's output: nothing."""
    return logits


def head_losses(
    head: nn.Module,
    hidden: Tensor,
    targets: Tensor,
    after_head: AfterHead = unchanged,
    chunk_logits: int = CHUNK_LOGITS,
    lanes: Lanes | None = None,
    *,
    alone: bool = True,
) -> Tensor:
    """Cross-entropy of `after_head(head(hidden))` against `targets`, at most `chunk_logits` logits at a time.

    A frozen head's are computed in `lanes`. The backward pass adds to the gradient of a trained head itself where
    this process `alone` holds it.
    Shapes: `hidden` (positions, hidden), `targets` (positions,); the result is fp32 (positions,).
    """
    weight = head.weight
    assert isinstance(weight, Tensor)  # noqa: S101  # every head is a matrix over the vocabulary
    size = max(1, chunk_logits // weight.shape[0])
    frozen = not any(parameter.requires_grad for parameter in head.parameters())
    if type(head) is nn.Linear and frozen and after_head is unchanged:
        losses: Tensor = _FrozenHeadLoss.apply(hidden, targets, weight, head.bias, size, lanes or Lanes(1))  # type: ignore[no-untyped-call]
        return losses
    plain = type(head) is nn.Linear and head.bias is None and after_head is unchanged
    if plain and alone and torch.is_grad_enabled() and fits(weight, len(targets)):
        return trained_head_losses(hidden, targets, weight)
    chunks = [
        checkpoint(_head_loss, head, after_head, *chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    ]
    return torch.cat(chunks)


def _head_loss(head: nn.Module, after_head: AfterHead, hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(after_head(head(hidden).float()), targets, reduction="none")


class _FrozenHeadLoss(torch.autograd.Function):
    """d loss/d logits is softmax − one-hot, known as soon as the logits are: no second pass is needed for it."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None, size: int, lanes: Lanes
    ) -> Tensor:
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # Each lane holds a chunk; all get equally many of equal sizes. Products of 128 positions take a tenth longer.
        chunks = math.ceil(len(targets) / (size * lanes.count)) * lanes.count
        ends = np.linspace(0, len(targets), chunks + 1).round().astype(int).tolist()

        def work(lane: int) -> None:
            for start, end in list(itertools.pairwise(ends))[lane :: lanes.count]:
                logits = F.linear(hidden[start:end], weight, bias)  # (chunk, vocab)
                losses[start:end] = cross_entropy(logits, targets[start:end])
                if gradient is not None:
                    torch.mm(logits.to(weight.dtype), weight, out=gradient[start:end])
                del logits  # before the next chunk's are made

        lanes.run(work, range(lanes.count))
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors  # (positions, hidden)
        return (gradient * upstream[0].unsqueeze(1).to(gradient.dtype), None, None, None, None, None)


@torch.no_grad()
def _after_head(model: "Model", head: nn.Module) -> AfterHead | None:
    """What the model does to its head's output (Gemma caps it, Cohere and Granite scale it); None when it is unknown.

    A config may hold a key that the model does not use, so the model is asked: its head is made to return known
    values, and the candidate that turns them into the model's logits is the answer.
    """
    known: list[Tensor] = []

    def replace(_head: nn.Module, _arguments: Any, logits: Tensor) -> Tensor:
        known.append(torch.linspace(-50, 50, logits.shape[-1]).to(logits).expand_as(logits))
        return known[0]

    training = model.training
    hook = head.register_forward_hook(replace)
    try:
        device = next(model.parameters()).device
        logits = model.eval()(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device), use_cache=False).logits
    finally:
        hook.remove()
        model.train(training)
    for candidate in _after_head_candidates(model.config.get_text_config()):
        expected = candidate(known[0].float())
        if logits.shape == expected.shape and torch.allclose(logits.float(), expected, rtol=1e-2, atol=1e-3):
            return candidate
    return None


def _after_head_candidates(config: PretrainedConfig) -> Iterator[AfterHead]:
    yield unchanged
    if cap := getattr(config, "final_logit_softcapping", None):
        yield lambda logits: torch.tanh(logits / cap) * cap
    for factor in ("logit_scale", "lm_head_multiplier"):
        if value := getattr(config, factor, None):
            yield functools.partial(torch.mul, other=value)
    if divisor := getattr(config, "logits_scaling", None):
        yield functools.partial(torch.div, other=divisor)
