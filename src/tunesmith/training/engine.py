"""One optimizer step and one evaluation: what the loop repeats.

Loss and gradients are sums over supervised tokens divided by the step's count of them, so how a step is cut into
micro-batches is free to follow the memory: when the device runs out of it, the step is done again in smaller ones.
Everything random in a step (dropout) comes from (seed, step), so a resumed run needs no random state.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tunesmith.errors import TrainingError
from tunesmith.training.batches import MICRO_BATCH_TOKENS, MicroBatch, Row, micro_batches
from tunesmith.training.objectives import Objective

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
"""The defaults of torch and of transformers' Trainer."""


@dataclass(frozen=True)
class StepOutcome:
    """What one optimizer step did; `loss` in nats per supervised token. Not `finite`: no parameter was changed."""

    loss: float
    grad_norm: float
    tokens: int
    supervised_tokens: int

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


@dataclass(frozen=True)
class ValidationLoss:
    """Mean loss over `supervised_tokens`, in nats."""

    loss: float
    supervised_tokens: int


class Engine:
    """A model, its objective and its optimizer on one device; bf16 is autocast, parameters that learn stay fp32."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        bf16: bool,
        max_grad_norm: float,
        seed: int,
    ) -> None:
        self._model = model
        self._objective = objective
        self._optimizer = optimizer
        self._device = device
        self._bf16 = bf16
        self._max_grad_norm = max_grad_norm
        self._seed = seed
        self._token_budget = MICRO_BATCH_TOKENS
        self._learning = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step(self, rows: Sequence[Row], *, step: int, learning_rate: float) -> StepOutcome:
        """Train on `rows` once, as optimizer step `step` (from 0).

        Raises TrainingError when a single row does not fit into the device's memory.
        """
        self._model.train()
        supervised = sum(int(row.supervised[1:].sum()) for row in rows)
        loss = self._accumulate_gradients(rows, supervised, step)
        norm = torch.nn.utils.clip_grad_norm_(self._learning, self._max_grad_norm)
        outcome = StepOutcome(float(loss), float(norm), sum(len(row.tokens) for row in rows), supervised)
        if outcome.finite:
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate
            self._optimizer.step()
        self._optimizer.zero_grad()
        return outcome

    @torch.no_grad()
    def validate(self, rows: Sequence[Row]) -> ValidationLoss:
        """The loss on `rows`, without dropout."""
        self._model.eval()
        supervised = sum(int(row.supervised[1:].sum()) for row in rows)
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for batch in micro_batches(rows, self._token_budget):
            total += self._loss(batch)
        return ValidationLoss(float(total) / supervised, supervised)

    def _accumulate_gradients(self, rows: Sequence[Row], supervised: int, step: int) -> torch.Tensor:
        while True:
            torch.manual_seed(_step_seed(self._seed, step))
            total = torch.zeros((), device=self._device)
            batches = micro_batches(rows, self._token_budget)
            try:
                for batch in batches:
                    loss = self._loss(batch) / supervised
                    torch.autograd.backward(loss)
                    total += loss.detach()
            except torch.OutOfMemoryError as error:
                self._shrink_micro_batches(batches, error)
            else:
                return total

    def _loss(self, batch: MicroBatch) -> torch.Tensor:
        autocast = torch.autocast(self._device.type, torch.bfloat16) if self._bf16 else contextlib.nullcontext()
        with autocast:
            return self._objective.loss(batch.to(self._device))

    def _shrink_micro_batches(self, batches: Sequence[MicroBatch], error: torch.OutOfMemoryError) -> None:
        if all(len(batch.input_ids) == 1 for batch in batches):
            longest = max(batch.tokens for batch in batches)
            raise TrainingError(
                f"a row of {longest:,} tokens does not fit into the memory of {self._device}; "
                "lower training.max_length, use adapter.kind: lora or a smaller model"
            ) from error
        self._token_budget //= 2
        self._optimizer.zero_grad()
        torch.cuda.empty_cache()


def make_optimizer(model: nn.Module, *, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101) over the parameters that learn.

    Matrices decay; norms and biases do not, as in transformers' Trainer. The loop sets the learning rate.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in learning if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in learning if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=0.0, betas=ADAM_BETAS, eps=ADAM_EPSILON, fused=True
    )


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
