"""Group relative policy optimization (Shao et al. 2024, https://arxiv.org/abs/2402.03300), by TRL's names.

Several replies to one prompt are each other's baseline: a reply's advantage is its reward against the group's mean,
in the group's standard deviations. No value model is needed. `dapo` (https://arxiv.org/abs/2503.14476) divides by all
tokens of the step, `grpo` averages within each reply first, `dr_grpo` (https://arxiv.org/abs/2503.20783) divides by a
constant. `bnpo` divides by the tokens of what a process of TRL runs at once; here that is the step, as in `dapo`.
Ratios of whole replies are GSPO's (https://arxiv.org/abs/2507.18071).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.spec import GrpoSpec
from tunesmith.training import ranks
from tunesmith.training.batches import MicroBatch, Row
from tunesmith.training.objectives import Loss, MeanLoss, Measure, Validation
from tunesmith.training.prompt import Prompt
from tunesmith.training.rollouts import Policy, Rollout, correction, reward_measures
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
        std = _std(rewards)
        advantages = rewards - rewards.nanmean(dim=1, keepdim=True)
        match self._spec.scale_rewards:
            case "group":
                advantages = advantages / (std + STD_FLOOR)
            case "batch":
                advantages = advantages / (_std(rewards.view(1, -1)) + STD_FLOOR)
        advantages = advantages.nan_to_num(nan=0.0)  # nothing is learned from a reply without a reward
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
        """All tokens of the step's replies (dapo, bnpo), the replies (grpo), or a constant for each (dr_grpo)."""
        match self._spec.loss_type:
            case "dapo" | "bnpo":
                return max(1, sum(example.rollout.tokens for example in examples if self._learns_from(example)))
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
        tokens = logps.new_tensor([rollout.tokens for rollout in rollouts])  # (replies,)
        change = logps - old
        if spec.importance_sampling_level == "sequence":
            change = (batch.row_sums(change) / tokens)[batch.row_of_target]
        ratio = torch.exp(change)
        low, high = 1 - spec.epsilon, 1 + (spec.epsilon if spec.epsilon_high is None else spec.epsilon_high)
        clipped = ratio.clamp(low, high)
        weights, sampling = correction(rollouts, old)
        per_token = -torch.min(ratio * advantages, clipped * advantages) * weights
        # Schulman's k3: never negative, and unbiased.
        kl = torch.exp(reference - logps) - (reference - logps) - 1
        if spec.beta:
            per_token = per_token + spec.beta * kl * ratio
        if spec.loss_type == "grpo":
            per_token = per_token / tokens[batch.row_of_target]
        if spec.mask_truncated_completions:
            kept = logps.new_tensor([self._learns_from(example) for example in batch.examples])
            per_token = per_token * kept[batch.row_of_target]
        away = ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))
        deviations = [example.group_std for example in batch.examples if not math.isnan(example.group_std)]
        measures = rollout_measures(rollouts) | sampling
        measures |= {
            "kl": Measure(kl.detach().sum(), len(kl)),
            "reward_std": Measure(sum(deviations), len(deviations)),
            "clip_ratio": Measure(away.float().sum(), len(kl)),
        }
        return Loss(per_token.sum(), measures)

    def _learns_from(self, example: Scored) -> bool:
        return example.rollout.ended or not self._spec.mask_truncated_completions

    def validate(self, examples: Sequence[Prompt], mean_loss: MeanLoss[Scored]) -> Validation:
        """The negated mean reward of a reply to each held-out prompt."""
        measures = self._policy.held_out(examples, self._token_loss)
        return Validation(-measures["reward"], len(examples), measures)


def rollout_measures(rollouts: Sequence[Rollout]) -> dict[str, Measure]:
    """What there is to see in any rollouts, by TRL's names."""
    count = len(rollouts)
    return {
        **reward_measures(rollouts),
        "completions/mean_length": Measure(sum(rollout.tokens for rollout in rollouts), count),
        "completions/clipped_ratio": Measure(sum(not rollout.ended for rollout in rollouts), count),
    }


def _std(rewards: Tensor) -> Tensor:
    """Standard deviation of each row (rows, 1), by those that are not NaN; NaN where they are fewer than two."""
    scored = (~rewards.isnan()).sum(dim=1, keepdim=True)
    squares = (rewards - rewards.nanmean(dim=1, keepdim=True)).square().nansum(dim=1, keepdim=True)
    return (squares / (scored - 1)).where(scored > 1, torch.nan).sqrt()
