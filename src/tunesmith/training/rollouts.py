"""Rollouts: the model's own replies to a step's prompts, their rewards, and what the reference thinks of them.

Replies are sampled at temperature 1, so they are draws from the very distribution whose gradient is taken; they are
made in batches with a KV cache, and are the larger part of an online step's time. All randomness comes from the
step's seed, so a resumed run makes the same replies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tunesmith.evaluation.generate import sample
from tunesmith.training import ranks
from tunesmith.training.batches import Row
from tunesmith.training.prompt import Prompt
from tunesmith.training.reference import Reference
from tunesmith.training.rewards import RewardSource
from tunesmith.training.token_loss import TokenLoss, row_logps

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tunesmith.models.load import Model


@dataclass(frozen=True)
class Rollout:
    """A reply to a prompt, with its reward and the reference's log-probability of each of its tokens (tokens,)."""

    row: Row
    reward: float
    ended: bool
    reference: Tensor

    @property
    def tokens(self) -> int:
        """Length of the reply."""
        return len(self.reference)


class Policy:
    """The model as something that replies: sampling, rewards and the reference, together."""

    def __init__(
        self,
        model: "Model",
        tokenizer: "PreTrainedTokenizerBase",
        reference: Reference,
        reward: RewardSource,
        *,
        max_completion_length: int,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._reference = reference
        self._reward = reward
        self._max_completion_length = max_completion_length

    def rollouts(self, prompts: Sequence[Prompt], seed: int, *, each: int = 1) -> list[Rollout]:
        """`each` replies to every prompt, those to one prompt together. Raises TrainingError without rewards.

        Ranks reply to a share of the prompts each, and all get every reply.
        """
        made = ranks.each(prompts, lambda own: self._reply(own, seed + ranks.index(), each))
        device = self._model.device
        return [replace(one, reference=one.reference.to(device)) for group in made for one in group]

    def _reply(self, prompts: Sequence[Prompt], seed: int, each: int) -> list[list[Rollout]]:
        asked = [prompt for prompt in prompts for _ in range(each)]
        training = self._model.training
        self._model.eval()
        try:
            replies = sample(
                self._model,
                self._tokenizer,
                [prompt.tokens for prompt in asked],
                max_new_tokens=self._max_completion_length,
                seed=seed,
            )
            texts = [str(self._tokenizer.decode(reply, skip_special_tokens=True)).strip() for reply in replies]
            rewards = self._reward.score([prompt.source for prompt in asked], texts)
            rows = [_row(prompt, reply) for prompt, reply in zip(asked, replies, strict=True)]
            reference = self._reference.token_logps(rows)
        finally:
            self._model.train(training)
        made = [
            Rollout(row, reward, len(reply) < self._max_completion_length, known.cpu())
            for row, reply, reward, known in zip(rows, replies, rewards, reference, strict=True)
        ]
        return [made[start : start + each] for start in range(0, len(made), each)]

    @torch.no_grad()
    def held_out(self, prompts: Sequence[Prompt], token_loss: TokenLoss) -> dict[str, float]:
        """How the policy does on prompts that it does not train on: one reply each, always by the same seed.

        `answer_loss` is its loss, in nats per token, on the replies in the data: a reward that rises while this
        rises too is bought with quality.
        """
        rollouts = self.rollouts(prompts, seed=0)
        logps = [float(value) for value in row_logps(token_loss, [rollout.row for rollout in rollouts])]
        drift = sum(logps) - sum(float(rollout.reference.sum()) for rollout in rollouts)
        measures = {
            "reward": _mean([rollout.reward for rollout in rollouts]),
            "kl": drift / sum(rollout.tokens for rollout in rollouts),
            "completions/mean_length": _mean([rollout.tokens for rollout in rollouts]),
        }
        answers = [prompt.answer for prompt in prompts if prompt.answer is not None]
        if answers:
            tokens = sum(int(row.supervised[1:].sum()) for row in answers)
            measures["answer_loss"] = -float(row_logps(token_loss, answers).sum()) / tokens
        return measures


def _row(prompt: Prompt, reply: Sequence[int]) -> Row:
    supervised = np.zeros(len(prompt.tokens) + len(reply), np.bool_)
    supervised[len(prompt.tokens) :] = True
    return Row(np.array([*prompt.tokens, *reply], np.int32), supervised)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
