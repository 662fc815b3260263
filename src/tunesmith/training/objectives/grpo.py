"""Group relative policy optimization (Shao et al. 2024, https://arxiv.org/abs/2402.03300), by TRL's names.

Several replies to one prompt are each other's baseline: a reply's advantage is its reward against the group's mean,
in the group's standard deviations. No value model is needed. `dapo` (https://arxiv.org/abs/2503.14476) divides by all
tokens of the step, `grpo` averages within each reply first, `dr_grpo` (https://arxiv.org/abs/2503.20783) divides by a
constant.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.spec import GrpoSpec
from tunesmith.training import ranks
from tunesmith.training.batches import MicroBatch, Row
from tunesmith.training.objectives import Loss, MeanLoss, Measure, Validation
from tunesmith.training.prompt import Prompt
from tunesmith.training.rollouts import Policy, Rollout
from tunesmith.training.token_loss import TokenLoss, to_send, token_logps

STD_FLOOR = 1e-4
"""TRL's: keeps a group whose rewards are all equal from dividing by zero."""


@dataclass(frozen=True)
class Scored:
    """A rollout with its advantage; `old` are its tokens' log-probabilities when it was made, where they are needed."""

    rollout: Rollout
    advantage: float
    group_std: float
    old: Tensor | None

    @property
    def rows(self) -> tuple[Row, ...]:
        """Prompt and reply."""
        return (self.rollout.row,)


class Grpo:
    """The clipped policy gradient on group-relative advantages, with the KL to the reference held by β."""

    reads_forest = True

    def __init__(self, spec: GrpoSpec, policy: Policy, token_loss: TokenLoss) -> None:
        self.updates = spec.num_iterations
        self._spec = spec
        self._policy = policy
        self._token_loss = token_loss

    def prepare(self, examples: Sequence[Prompt], seed: int) -> Sequence[Scored]:
        """`num_generations` replies to each prompt, with their advantages."""
        each = self._spec.num_generations
        rollouts = self._policy.rollouts(examples, seed, each=each)
        rewards = torch.tensor([rollout.reward for rollout in rollouts]).view(-1, each)  # (prompts, replies)
        std = rewards.std(dim=1, keepdim=True)
        advantages = rewards - rewards.mean(dim=1, keepdim=True)
        if self._spec.scale_rewards == "group":
            advantages = advantages / (std + STD_FLOOR)
        old: Sequence[Tensor | None] = [None] * len(rollouts)
        if self.updates > 1:
            rows = [rollout.row for rollout in rollouts]
            old = ranks.each(rows, self._logps, in_step=self._token_loss.sharded)
        return [
            Scored(rollout, advantage, deviation, before)
            for rollout, advantage, deviation, before in zip(
                rollouts, advantages.flatten().tolist(), std.expand(-1, each).flatten().tolist(), old, strict=True
            )
        ]

    def _logps(self, rows: Sequence[Row]) -> list[Tensor]:
        return to_send(token_logps(self._token_loss, rows))

    def weight(self, examples: Sequence[Scored]) -> float:
        """All tokens of the step's replies (dapo), the replies (grpo), or a constant for each (dr_grpo)."""
        match self._spec.loss_type:
            case "dapo":
                return sum(example.rollout.tokens for example in examples)
            case "grpo":
                return len(examples)
            case "dr_grpo":
                return len(examples) * self._spec.max_completion_length

    def loss(self, batch: MicroBatch[Scored]) -> Loss:
        """Summed as `weight` wants it."""
        spec, rollouts = self._spec, [example.rollout for example in batch.examples]
        logps = -self._token_loss.of(batch)  # (tokens,)
        known = [logp for example in batch.examples if (logp := example.old) is not None]
        old = torch.cat(known).to(logps.device) if known else logps.detach()
        reference = torch.cat([rollout.reference for rollout in rollouts])
        advantages = logps.new_tensor([example.advantage for example in batch.examples])[batch.row_of_target]
        ratio = torch.exp(logps - old)
        clipped = ratio.clamp(1 - spec.epsilon, 1 + spec.epsilon)
        per_token = -torch.min(ratio * advantages, clipped * advantages)
        # Schulman's k3: never negative, and unbiased.
        kl = torch.exp(reference - logps) - (reference - logps) - 1
        if spec.beta:
            per_token = per_token + spec.beta * kl * ratio
        if spec.loss_type == "grpo":
            tokens = logps.new_tensor([rollout.tokens for rollout in rollouts])
            per_token = per_token / tokens[batch.row_of_target]
        away = ((ratio < 1 - spec.epsilon) & (advantages < 0)) | ((ratio > 1 + spec.epsilon) & (advantages > 0))
        measures = rollout_measures(rollouts) | {
            "kl": Measure(kl.detach().sum(), len(kl)),
            "reward_std": Measure(sum(example.group_std for example in batch.examples), len(rollouts)),
            "clip_ratio": Measure(away.float().sum(), len(kl)),
        }
        return Loss(per_token.sum(), measures)

    def validate(self, examples: Sequence[Prompt], mean_loss: MeanLoss[Scored]) -> Validation:
        """The negated mean reward of a reply to each held-out prompt."""
        measures = self._policy.held_out(examples, self._token_loss)
        return Validation(-measures["reward"], len(examples), measures)


def rollout_measures(rollouts: Sequence[Rollout]) -> dict[str, Measure]:
    """What there is to see in any rollouts, by TRL's names."""
    count = len(rollouts)
    return {
        "reward": Measure(sum(rollout.reward for rollout in rollouts), count),
        "completions/mean_length": Measure(sum(rollout.tokens for rollout in rollouts), count),
        "completions/clipped_ratio": Measure(sum(not rollout.ended for rollout in rollouts), count),
    }
