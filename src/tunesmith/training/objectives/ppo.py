"""Proximal policy optimization (Schulman et al. 2017, https://arxiv.org/abs/1707.06347) as RLHF uses it.

A value head on the policy's own last states predicts what a reply will still earn; generalized advantage estimation
(https://arxiv.org/abs/1506.02438) turns its errors into an advantage per token. The KL to the reference is part of
the reward of each token, the reward source's score comes with the last one (Ziegler et al. 2019,
https://arxiv.org/abs/1909.08593). Names and defaults are those of TRL's PPO; the head shares the policy's layers, so
there is no second model to hold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from tunesmith.errors import TrainingError
from tunesmith.spec import PpoSpec
from tunesmith.training import ranks
from tunesmith.training.batches import Example, MicroBatch, Row, micro_batches
from tunesmith.training.objectives import Loss, MeanLoss, Measure, Validation
from tunesmith.training.objectives.grpo import rollout_measures
from tunesmith.training.prompt import Prompt
from tunesmith.training.rollouts import Policy, Rollout, correction
from tunesmith.training.sharding import shard
from tunesmith.training.token_loss import TokenLoss, to_send

if TYPE_CHECKING:
    from tunesmith.models.load import Model


@dataclass(frozen=True)
class Estimated:
    """A rollout with, for each of its tokens (tokens,): its log-probability and value when it was made, its
    advantage, and the return that its value should have been."""

    rollout: Rollout
    old: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    @property
    def rows(self) -> tuple[Row, ...]:
        """Prompt and reply."""
        return (self.rollout.row,)


class Ppo:
    """The clipped policy gradient and the clipped error of the value head, `num_ppo_epochs` times per rollout."""

    reads_forest = False

    def __init__(self, spec: PpoSpec, model: "Model", policy: Policy, token_loss: TokenLoss) -> None:
        self.updates = spec.num_ppo_epochs
        self._spec = spec
        self._model = model
        self._policy = policy
        self._token_loss = token_loss
        head = model.get_output_embeddings()
        self._lm_head = head
        hidden = model.config.get_text_config().hidden_size
        self.value_head = nn.Linear(hidden, 1, device=token_loss.device, dtype=torch.float32)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        if token_loss.sharded and not isinstance(model, PeftModel):  # the norm of all gradients wants them alike
            shard(self.value_head, token_loss.device)

    def prepare(self, examples: Sequence[Prompt], seed: int) -> Sequence[Estimated]:
        """One reply to each prompt, with advantages that have mean 0 and variance 1 over the step's tokens."""
        spec = self._spec
        rollouts = self._policy.rollouts(examples, seed)
        if any(math.isnan(rollout.reward) for rollout in rollouts):
            raise TrainingError(
                "the reward function returned None, and ppo needs a number for each reply; return one and go on with "
                "--resume, or use objective.kind: grpo"
            )
        known = ranks.each(rollouts, self._before, in_step=self._token_loss.sharded)
        estimates = []
        for rollout, before in zip(rollouts, known, strict=True):
            old, values = (part.to(self._token_loss.device) for part in before)
            rewards = -spec.kl_coef * (old - rollout.reference)
            rewards[-1] += rollout.reward
            advantages = generalized_advantages(rewards, values, gamma=spec.gamma, lam=spec.lam)
            estimates.append(Estimated(rollout, old, values, advantages, advantages + values))
        every = torch.cat([estimate.advantages for estimate in estimates])
        mean, scale = every.mean(), torch.rsqrt(every.var(correction=0) + 1e-8)
        return [Estimated(e.rollout, e.old, e.values, (e.advantages - mean) * scale, e.returns) for e in estimates]

    def weight(self, examples: Sequence[Estimated]) -> float:
        """All tokens of the step's replies."""
        return sum(example.rollout.tokens for example in examples)

    def loss(self, batch: MicroBatch[Estimated]) -> Loss:
        """Summed over the replies' tokens."""
        spec, rollouts = self._spec, [example.rollout for example in batch.examples]
        logps, values = self._logps_and_values(batch)  # (tokens,) each
        old, before, advantages, returns = (
            torch.cat([getattr(example, name) for example in batch.examples])
            for name in ("old", "values", "advantages", "returns")
        )
        ratio = torch.exp(logps - old)
        clipped = ratio.clamp(1 - spec.cliprange, 1 + spec.cliprange)
        policy_loss = torch.max(-advantages * ratio, -advantages * clipped)
        near = before + (values - before).clamp(-spec.cliprange_value, spec.cliprange_value)
        value_loss = 0.5 * torch.max((values - returns) ** 2, (near - returns) ** 2)
        weights, sampling = correction(rollouts, old)
        total = (policy_loss * weights + spec.vf_coef * value_loss).sum()
        reference = torch.cat([rollout.reference for rollout in rollouts])
        measures = rollout_measures(rollouts) | sampling
        measures |= {
            "kl": Measure((old - reference).sum(), len(values)),
            "value_loss": Measure(value_loss.detach().sum(), len(values)),
            "clip_ratio": Measure((policy_loss > -advantages * ratio).float().sum(), len(values)),
        }
        return Loss(total, measures)

    def validate(self, examples: Sequence[Prompt], mean_loss: MeanLoss[Estimated]) -> Validation:
        """The negated mean reward of a reply to each held-out prompt."""
        measures = self._policy.held_out(examples, self._token_loss)
        return Validation(-measures["reward"], len(examples), measures)

    @torch.no_grad()
    def _before(self, rollouts: Sequence[Rollout]) -> list[tuple[Tensor, Tensor]]:
        """Log-probabilities and values of each rollout's tokens, as the policy is now and without dropout."""
        indexed = [_Indexed(index, rollout) for index, rollout in enumerate(rollouts)]
        found: dict[int, tuple[Tensor, Tensor]] = {}
        training = self._model.training
        self._model.eval()
        device = self._token_loss.device
        for batch, (logps, values) in self._token_loss.budget.passes(
            indexed, partial(micro_batches, device=device), lambda batch: self._logps_and_values(batch.to(device))
        ):
            counts = [example.rollout.tokens for example in batch.examples]
            known = zip(*(to_send(torch.split(parts, counts)) for parts in (logps, values)), strict=True)
            found |= {example.index: of for example, of in zip(batch.examples, known, strict=True)}
        self._model.train(training)
        return [found[index] for index in range(len(rollouts))]

    def _logps_and_values(self, batch: MicroBatch[Example]) -> tuple[Tensor, Tensor]:
        """Of each target (targets,): its log-probability, and the value of the state that it is said in."""
        states: list[Tensor] = []

        def keep(_head: nn.Module, arguments: tuple[Any, ...]) -> None:
            hook.remove()  # the head is called again, for the losses, on some of these states
            hidden = arguments[0][:, -batch.input_ids.shape[1] :]  # (rows, tokens, hidden)
            states.append(hidden.flatten(0, 1).index_select(0, batch.positions))

        hook = self._lm_head.register_forward_pre_hook(keep)  # before the one that leaves only some positions
        try:
            losses = self._token_loss.of(batch)
        finally:
            hook.remove()
        return -losses, self.value_head(states[0].float()).squeeze(-1).float()


def generalized_advantages(rewards: Tensor, values: Tensor, *, gamma: float, lam: float) -> Tensor:
    """Advantages of a reply's tokens, (tokens,) like `rewards` and `values`; after the last token nothing is earned."""
    following = torch.cat([values[1:], values.new_zeros(1)])
    errors = (rewards + gamma * following - values).tolist()
    advantages = [0.0] * len(errors)
    later = 0.0
    for index in range(len(errors) - 1, -1, -1):
        later = errors[index] + gamma * lam * later
        advantages[index] = later
    return values.new_tensor(advantages)


@dataclass(frozen=True)
class _Indexed:
    index: int
    rollout: Rollout

    @property
    def rows(self) -> tuple[Row, ...]:
        return (self.rollout.row,)
