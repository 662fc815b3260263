"""One step and one evaluation: what the loop repeats.

Loss and gradients are sums over the step's examples divided by its weight (supervised tokens, pairs), so how a step is
cut into micro-batches, or dealt out to ranks, is free: when memory runs out, the update is done again in smaller ones.
Everything random in a step (dropout, rollouts) comes from (seed, step), so a resumed run needs no random state.
"""

import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from tunesmith.models.out_of_memory import as_out_of_memory
from tunesmith.training import ranks
from tunesmith.training.batches import MICRO_BATCH_TOKENS, Example, MicroBatch, micro_batches
from tunesmith.training.fast_layers import use_fast_layers
from tunesmith.training.fast_lora import use_fast_lora
from tunesmith.training.forest_attention import planted_where_possible, use_forest_attention
from tunesmith.training.lanes import FEW_PARAMETERS, learning_share
from tunesmith.training.objectives import Loss, Measure, Objective, Validation
from tunesmith.training.sharding import is_sharded, whole
from tunesmith.training.token_budget import TokenBudget

R = TypeVar("R")

CPU_TOKENS = 2560
"""Of a forest on a CPU: its products are as fast on fewer tokens than a GPU's, which saves memory of activations."""

CPU_TOKENS_IN_FULL = 768
"""The same where all parameters learn: autograd keeps more of each token then, beside gradients and moments."""

EXPLODED = 1e4
"""Gradient norms above this many times `max_grad_norm`, or 1 where that is less, are not clipped but end the run:
their direction is noise."""

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
"""The defaults of torch and of transformers' Trainer."""

_UNDECAYED = re.compile(r"bias|layernorm|rmsnorm|(^|\.)norm(\.|$)|_norm(\.|$)")
"""Parameters whose names say that they are a bias or a norm's; the patterns are those of transformers' Trainer."""


@dataclass(frozen=True)
class StepOutcome:
    """What one step did: the means over its updates.

    Not `finite`, or `exploded`: the update that was so and those after it were not made, and `begun` says whether
    the step had made any before.
    """

    loss: float
    grad_norm: float
    tokens: int
    supervised_tokens: int
    measures: Mapping[str, float] = field(default_factory=dict)
    exploded: bool = False
    begun: bool = True

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Engine:
    """A model, its objective and its optimizer on one device; bf16 is autocast, parameters that learn stay fp32.

    `micro_batch_tokens` is how many padded tokens run through the model at once; `planned_steps`, of the whole run, say
    what is worth preparing.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective[Any],
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        bf16: bool,
        max_grad_norm: float,
        seed: int,
        micro_batch_tokens: int = MICRO_BATCH_TOKENS,
        planned_steps: int = 0,
    ) -> None:
        self._model: Any = model
        self._objective = objective
        self._optimizer = optimizer
        self._device = device
        self._bf16 = bf16
        self._max_grad_norm = max_grad_norm
        self._seed = seed
        self._sharded = is_sharded(model)
        self._learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        use_fast_lora(model)
        causal: Any = model  # what learns beside a value head is no model, and reads no forest
        self._planted = objective.reads_forest and use_forest_attention(causal)
        use_fast_layers(model, planted=self._planted, steps=planned_steps)
        if self._planted and device.type == "cpu":
            few = learning_share(model) <= FEW_PARAMETERS
            micro_batch_tokens = min(micro_batch_tokens, CPU_TOKENS if few else CPU_TOKENS_IN_FULL)
        self._budget = TokenBudget(device, micro_batch_tokens, sharded=self._sharded)

    def step(self, examples: Sequence[Example], *, step: int, learning_rate: float) -> StepOutcome:
        """Train on `examples` once, as step `step` (from 0).

        Raises TrainingError when a single example does not fit into the device's memory.
        """
        seed = _step_seed(self._seed, step)
        self._model.train()
        with self._agreeing(), self._autocast():
            examples = self._objective.prepare(examples, seed)
        rows = [row for example in examples for row in example.rows]
        updates = []
        for _ in range(self._objective.updates):
            updates.append(self._update(examples, seed, learning_rate))
            if not updates[-1].made:
                break
        return StepOutcome(
            loss=_mean([update.loss for update in updates]),
            grad_norm=_mean([update.grad_norm for update in updates]),
            tokens=sum(len(row.tokens) for row in rows),
            supervised_tokens=sum(row.targets for row in rows),
            measures={name: _mean([update.measures[name] for update in updates]) for name in updates[-1].measures},
            exploded=not updates[-1].made,
            begun=updates[0].made,
        )

    @torch.no_grad()
    def validate(self, examples: Sequence[Example]) -> Validation:
        """How held-out `examples` fare, without dropout."""
        self._model.eval()
        with self._autocast():
            return self._objective.validate(examples, self._mean_loss)

    def _update(self, examples: Sequence[Example], seed: int, learning_rate: float) -> "_Update":
        with self._agreeing():
            own_loss, measures = self._accumulate_gradients(examples, seed)
        ranks.add_gradients(self._learning)
        loss = sum(ranks.gather(float(own_loss)))
        norm = whole(torch.nn.utils.clip_grad_norm_(self._learning, self._max_grad_norm))
        made = math.isfinite(loss) and float(norm) <= EXPLODED * max(1.0, self._max_grad_norm)
        update = _Update(loss, float(norm), measures.gathered().means(), made)
        if update.made:
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate
            self._optimizer.step()
        self._optimizer.zero_grad()
        return update

    def _accumulate_gradients(self, examples: Sequence[Example], seed: int) -> "tuple[torch.Tensor, _Measures]":
        """This rank's part of the step's loss and gradients, and of its measures."""
        weight = self._objective.weight(examples)

        def learn() -> "tuple[torch.Tensor, _Measures]":
            torch.manual_seed(seed + ranks.index())
            self._optimizer.zero_grad()
            return self._run(examples, weight, learn=True)

        return self._fitting(examples, learn)

    @torch.no_grad()
    def _mean_loss(self, examples: Sequence[Example]) -> Validation:
        weight = self._objective.weight(examples)
        with self._agreeing():
            own_loss, measures = self._fitting(examples, lambda: self._run(examples, weight, learn=False))
        return Validation(sum(ranks.gather(float(own_loss))), weight, measures.gathered().means())

    def _fitting(self, examples: Sequence[Example], run: Callable[[], R]) -> R:
        """What `run` makes of this rank's share of `examples`, in smaller micro-batches where memory runs out."""
        while True:
            try:
                with as_out_of_memory():
                    return run()
            except torch.OutOfMemoryError as error:
                self._budget.halve(self._micro_batches(examples), error)

    def _agreeing(self) -> contextlib.AbstractContextManager[None]:
        return ranks.computing_in_step() if self._sharded else ranks.agreeing()

    def _run(self, examples: Sequence[Example], weight: float, *, learn: bool) -> "tuple[torch.Tensor, _Measures]":
        """The loss of this rank's part of `examples`, divided by `weight`, and its measures; to `learn`, gradients."""
        batches = self._micro_batches(examples)
        losses, measures = [torch.zeros((), device=self._device)], _Measures()
        for batch in batches:
            loss = self._loss(batch)
            share = loss.total / weight
            if learn:
                torch.autograd.backward(share)
            losses.append(share.detach())
            measures.add(loss.measures)
        if missing := self._budget.missing(len(batches)):
            for batch in self._cut(examples[:1]) * missing:
                nothing = self._loss(batch).total * 0
                if learn:
                    torch.autograd.backward(nothing)
        return torch.stack(losses).cpu().sum(dtype=torch.float64), measures

    def _micro_batches(self, examples: Sequence[Example]) -> list[MicroBatch[Example]]:
        """Micro-batches of this rank's share of `examples`."""
        own = ranks.share(examples, _tokens)
        return self._cut(own) if own else []

    def _cut(self, examples: Sequence[Example]) -> list[MicroBatch[Example]]:
        if self._planted:
            return planted_where_possible(self._model, examples, self._budget.tokens)
        return micro_batches(examples, self._budget.tokens, self._device)

    def _loss(self, batch: MicroBatch[Any]) -> Loss:
        with self._autocast():
            return self._objective.loss(batch.to(self._device))

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if not self._bf16:
            return contextlib.nullcontext()
        # Of a sharded model, the cache of cast weights would hold all layers at once.
        return torch.autocast(self._device.type, torch.bfloat16, cache_enabled=not self._sharded)


@dataclass(frozen=True)
class _Update:
    loss: float
    grad_norm: float
    measures: Mapping[str, float]
    made: bool


class _Measures:
    """The measures of micro-batches, added up on the device: asking for a number waits for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Measure] = {}

    def add(self, measures: Mapping[str, Measure]) -> None:
        for name, measure in measures.items():
            before = self.sums.get(name, Measure(0.0, 0.0))
            self.sums[name] = Measure(before.total + measure.total, before.count + measure.count)

    def gathered(self) -> "_Measures":
        """Those of all ranks together."""
        if ranks.count() == 1:
            return self
        every = _Measures()
        for own in ranks.gather({name: Measure(float(sums.total), sums.count) for name, sums in self.sums.items()}):
            every.add(own)
        return every

    def means(self) -> dict[str, float]:
        return {name: float(sums.total) / sums.count for name, sums in self.sums.items() if sums.count}


def _tokens(example: Example) -> int:
    return sum(len(row.tokens) for row in example.rows)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def make_optimizer(model: nn.Module, *, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101) over the parameters that learn.

    All decay but norms and biases, as in transformers' Trainer. The loop sets the learning rate.
    """
    norms = {weight for module in model.modules() if isinstance(module, nn.LayerNorm) for weight in module.parameters()}
    decays = {
        parameter: parameter not in norms and not _UNDECAYED.search(name.lower())
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    groups = [
        {"params": [parameter for parameter, own in decays.items() if own], "weight_decay": weight_decay},
        {"params": [parameter for parameter, own in decays.items() if not own], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=0.0, betas=ADAM_BETAS, eps=ADAM_EPSILON, fused=True
    )


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
