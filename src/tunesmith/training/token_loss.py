"""Cross-entropy only where a label is, without ever holding all logits.

A vocabulary of 128k makes logits the largest tensor of a step, and most positions are prompt or padding. So the
model runs its own forward with its head fed only the supervised positions (a hook on the head: right for every
architecture and adapter, since nothing of the model is re-implemented), and the head itself runs in chunks.
A frozen head computes its gradient in the same pass, as Liger Kernel does (https://arxiv.org/abs/2410.10989), for two
matrix products a chunk; a trained head is recomputed in the backward pass, for four.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

CHUNK_LOGITS = 2**24
"""Logits held at once (64 MiB in fp32)."""


class TokenLoss:
    """Per-token losses of `model`. Making one runs the model on two tokens, to learn what it does after its head."""

    def __init__(self, model: PreTrainedModel | PeftModel, chunk_logits: int = CHUNK_LOGITS) -> None:
        self._model = model
        self._head = model.get_output_embeddings()
        self._chunk_logits = chunk_logits
        self._head_is_last = _head_is_last(model, self._head)

    def __call__(self, input_ids: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood, in nats, of `targets` as predicted at `positions`; fp32 (supervised,).

        `positions` index the flattened `input_ids` (rows, tokens); rows are padded on the right, unmasked.
        """
        captured: list[Tensor] = []

        def select(_head: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden = arguments[0]  # (rows, tokens, hidden)
            selected = hidden.flatten(0, 1).index_select(0, positions)  # (supervised, hidden)
            captured.append(selected)
            return (hidden[:, :0] if self._head_is_last else selected.unsqueeze(0), *arguments[1:])

        hook = self._head.register_forward_pre_hook(select)
        try:
            logits = self._model(input_ids=input_ids, use_cache=False).logits
        finally:
            hook.remove()
        if self._head_is_last:
            return head_losses(self._head, captured[0], targets, self._chunk_logits)
        return F.cross_entropy(logits[0].float(), targets, reduction="none")


def head_losses(head: nn.Module, hidden: Tensor, targets: Tensor, chunk_logits: int = CHUNK_LOGITS) -> Tensor:
    """Cross-entropy of `head(hidden)` against `targets`, at most `chunk_logits` logits at a time; fp32 (positions,).

    Shapes: `hidden` (positions, hidden), `targets` (positions,).
    """
    if type(head) is nn.Linear:
        size = max(1, chunk_logits // head.out_features)
        if not any(parameter.requires_grad for parameter in head.parameters()):
            losses: Tensor = _FrozenHeadLoss.apply(hidden, targets, head.weight, head.bias, size)
            return losses
    else:  # quantized, or with an adapter on it
        size = max(1, chunk_logits // int(head.weight.shape[0]))
    chunks = [
        checkpoint(_head_loss, head, *chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in zip(hidden.split(size), targets.split(size), strict=True)
    ]
    return torch.cat(chunks)


def _head_loss(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden).float(), targets, reduction="none")


class _FrozenHeadLoss(torch.autograd.Function):
    """d loss/d logits is softmax − one-hot, known as soon as the logits are: no second pass is needed for it."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None, size: int) -> Tensor:
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets), size):
            chunk = slice(start, start + size)
            expected = targets[chunk].unsqueeze(1)  # (chunk, 1)
            logits = F.linear(hidden[chunk], weight, bias).float()  # (chunk, vocab)
            log_total = logits.logsumexp(1, keepdim=True)
            losses[chunk] = (log_total - logits.gather(1, expected)).squeeze(1)
            if gradient is not None:
                softmax = logits.sub_(log_total).exp_()
                softmax.scatter_add_(1, expected, torch.full_like(log_total, -1.0))
                gradient[chunk] = softmax.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors  # (positions, hidden)
        return (gradient * upstream[0].unsqueeze(1).to(gradient.dtype), None, None, None, None)


@torch.no_grad()
def _head_is_last(model: PreTrainedModel | PeftModel, head: nn.Module) -> bool:
    """Whether the model returns its head's output untouched (Gemma caps it, Cohere and Granite scale it).

    Asked of the model rather than of a list of architectures: the head is made to return known values.
    """
    seen: list[Tensor] = []

    def replace(_head: nn.Module, _arguments: Any, logits: Tensor) -> Tensor:
        seen.append(torch.linspace(-50, 50, logits.shape[-1]).to(logits).expand_as(logits))
        return seen[0]

    training = model.training
    hook = head.register_forward_hook(replace)
    try:
        device = next(model.parameters()).device
        logits = model.eval()(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device), use_cache=False).logits
    finally:
        hook.remove()
        model.train(training)
    return logits.shape == seen[0].shape and torch.equal(logits, seen[0].to(logits.dtype))
