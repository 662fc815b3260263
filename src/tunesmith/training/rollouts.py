"""Rollouts: the model's own replies to a step's prompts, their rewards, and what the reference thinks of them.

Replies are draws from the very distribution whose gradient is taken: that of the model's logits divided by the
objective's temperature, by which the reference's are divided, too, as in TRL. (Nothing is cut off that distribution,
as top-p and top-k would: its gradient is not theirs.) They are made in batches with a KV cache, and are the larger part
of an online step's time. All randomness comes from the step's seed and a reply's place in the step, so a resumed run
makes the same replies, and so does any number of ranks. Ranks that share a model make their replies in step; it stays
spread then, a layer being gathered for each token, unless their GPUs have room for all of it. A vLLM may make the
replies in our stead (`vllm_rollouts`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tunesmith.errors import TrainingError
from tunesmith.evaluation.generate import end_tokens, reply_seeds, sample
from tunesmith.training import ranks
from tunesmith.training.batches import Row
from tunesmith.training.objectives import Measure
from tunesmith.training.prompt import Prompt
from tunesmith.training.reference import Reference
from tunesmith.training.rewards import Given, Rewards
from tunesmith.training.sharding import gathered, is_sharded
from tunesmith.training.token_loss import TokenLoss, row_logps, to_send

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tunesmith.models.load import Model
    from tunesmith.training.vllm_rollouts import VllmSampler

MOST_WEIGHT = 3.0
"""TRL's `vllm_importance_sampling_clip_max`: a token that its sampler held for a third as likely counts three times."""


@dataclass(frozen=True)
class Rollout:
    """A reply to a prompt, with its reward (NaN: it has none) and the reference's log-probability of each token.

    `reference` is (tokens,); not `ended`: the reply was cut off. `parts` are the rewards by their sources. `drawn` is
    by what log-probability each token was drawn (tokens,), where something else than the policy drew it.
    """

    row: Row
    reward: float
    ended: bool
    reference: Tensor
    parts: Mapping[str, float] = field(default_factory=dict)
    drawn: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Length of the reply."""
        return len(self.reference)


class Said(NamedTuple):
    """A reply's tokens, up to and with the one that ended it; `logps` as `Rollout.drawn`."""

    tokens: list[int]
    logps: list[float] | None = None


class Policy:
    """The model as something that replies: sampling, rewards and the reference, together."""

    def __init__(
        self,
        model: "Model",
        tokenizer: "PreTrainedTokenizerBase",
        reference: Reference,
        rewards: Rewards,
        *,
        max_completion_length: int,
        temperature: float = 1.0,
        vllm: "VllmSampler | None" = None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._reference = reference
        self._rewards = rewards
        self._max_completion_length = max_completion_length
        self._temperature = temperature
        self._ends = end_tokens(model.generation_config, tokenizer)
        self._in_step = is_sharded(model)
        self._vllm = vllm

    def rollouts(self, prompts: Sequence[Prompt], seed: int, *, each: int = 1) -> list[Rollout]:
        """`each` replies to every prompt, those to one prompt together. Raises TrainingError without rewards.

        Ranks reply to a share of the prompts each, and all get every reply. Those to one prompt are rewarded together.
        """
        if self._vllm is not None:
            self._vllm.give(self._model)
        seeds = reply_seeds(seed, len(prompts) * each)
        asked = [_Asked(prompt, seeds[place * each :][:each]) for place, prompt in enumerate(prompts)]
        training = self._model.training
        self._model.eval()
        try:
            said = ranks.each(asked, self._reply, in_step=self._in_step and self._vllm is None)
            answered = [
                _Answered(one.prompt, [s.tokens for s in group]) for one, group in zip(asked, said, strict=True)
            ]
            given = [one for group in ranks.each(answered, self._score) for one in group]
            rows = [_row(one.prompt, reply) for one in answered for reply in one.replies]
            reference = ranks.each(rows, self._known, in_step=self._in_step)
        finally:
            self._model.train(training)
        device = self._model.device
        drawn = [
            None if one.logps is None else torch.tensor(one.logps, device=device) for group in said for one in group
        ]
        return [
            Rollout(row, reward.total, int(row.tokens[-1]) in self._ends, known.to(device), reward.parts, by)
            for row, reward, known, by in zip(rows, given, reference, drawn, strict=True)
        ]

    def _reply(self, asked: Sequence["_Asked"]) -> list[list[Said]]:
        """The replies to each prompt."""
        each = len(asked[0].seeds)
        if self._vllm is None:
            said = self._say(asked)
        else:
            prompts, seeds = [one.prompt.tokens for one in asked], [one.seeds[0] for one in asked]
            said = self._vllm.sample(prompts, seeds, each=each, ends=self._ends)
        return [said[start : start + each] for start in range(0, len(said), each)]

    def _say(self, asked: Sequence["_Asked"]) -> list[Said]:
        with gathered(self._model):
            replies = sample(
                self._model,
                self._tokenizer,
                [one.prompt.tokens for one in asked for _ in one.seeds],
                seeds=[seed for one in asked for seed in one.seeds],
                max_new_tokens=self._max_completion_length,
                temperature=self._temperature,
                most=(lambda batches: max(ranks.gather(batches))) if self._in_step else None,
            )
        return [Said(reply) for reply in replies]

    def _score(self, answered: Sequence["_Answered"]) -> list[list[Given]]:
        each = len(answered[0].replies)
        replies = [reply for one in answered for reply in one.replies]
        texts = [str(self._tokenizer.decode(reply, skip_special_tokens=True)).strip() for reply in replies]
        given = self._rewards.give([one.prompt.source for one in answered for _ in one.replies], texts)
        return [given[start : start + each] for start in range(0, len(given), each)]

    def _known(self, rows: Sequence[Row]) -> list[Tensor]:
        return to_send(self._reference.token_logps(rows))

    @torch.no_grad()
    def held_out(self, prompts: Sequence[Prompt], token_loss: TokenLoss) -> dict[str, float]:
        """How the policy does on prompts that it does not train on: one reply each, always by the same seed.

        All is measured at its temperature. `answer_loss` is its loss, in nats per token, on the replies in the data: a
        reward that rises while this rises too is bought with quality.
        """
        rollouts = self.rollouts(prompts, seed=0)
        rewards = {name: measure for name, measure in reward_measures(rollouts).items() if measure.count}
        if "reward" not in rewards:
            raise TrainingError(
                "the reward function returned None for every reply to a held-out prompt; mend it and go on with "
                "--resume, or hold out prompts that it has a reward for"
            )
        drift = self._logps(token_loss, [rollout.row for rollout in rollouts]) - sum(
            float(rollout.reference.sum()) for rollout in rollouts
        )
        measures = {
            **{name: float(measure.total) / measure.count for name, measure in rewards.items()},
            "kl": drift / sum(rollout.tokens for rollout in rollouts),
            "completions/mean_length": _mean([rollout.tokens for rollout in rollouts]),
        }
        answers = [prompt.answer for prompt in prompts if prompt.answer is not None]
        if answers:
            tokens = sum(row.targets for row in answers)
            measures["answer_loss"] = -self._logps(token_loss, answers) / tokens
        return measures

    def _logps(self, token_loss: TokenLoss, rows: Sequence[Row]) -> float:
        """The log-probability of all `rows`."""
        found: list[float] = ranks.each(rows, lambda own: row_logps(token_loss, own).tolist(), in_step=self._in_step)
        return sum(found)


def reward_measures(rollouts: Sequence[Rollout]) -> dict[str, Measure]:
    """The rewards, and where there are several sources those of each, of the replies that were judged; TRL's names."""
    names = rollouts[0].parts if len(rollouts[0].parts) > 1 else {}
    columns = {"reward": [rollout.reward for rollout in rollouts]} | {
        f"rewards/{name}/mean": [rollout.parts[name] for rollout in rollouts] for name in names
    }
    judged = {name: [value for value in values if not math.isnan(value)] for name, values in columns.items()}
    return {name: Measure(sum(values), len(values)) for name, values in judged.items()}


@dataclass(frozen=True)
class _Asked:
    """A prompt, and the seed of each reply to it."""

    prompt: Prompt
    seeds: Sequence[int]


@dataclass(frozen=True)
class _Answered:
    prompt: Prompt
    replies: Sequence[list[int]]


def correction(rollouts: Sequence[Rollout], old: Tensor) -> tuple[Tensor | float, dict[str, Measure]]:
    """What each token's part of the policy gradient is multiplied with (tokens,), and what there is to see of it.

    1 where the policy drew its replies itself. Else by how much likelier a token was to the policy (`old`, (tokens,))
    than to what drew it, cut at `MOST_WEIGHT`: importance sampling, truncated as in Yao et al. 2025
    (https://fengyao.notion.site/off-policy-rl), TRL's `token_truncate`.
    """
    parts = [rollout.drawn for rollout in rollouts if rollout.drawn is not None]
    if not parts:
        return 1.0, {}
    apart = old - torch.cat(parts)
    measure = Measure(apart.detach().abs().sum(), len(apart))
    return torch.exp(apart).clamp(max=MOST_WEIGHT), {"sampling/sampling_logp_difference/mean": measure}


def _row(prompt: Prompt, reply: Sequence[int]) -> Row:
    supervised = np.zeros(len(prompt.tokens) + len(reply), np.bool_)
    supervised[len(prompt.tokens) :] = True
    return Row(np.array([*prompt.tokens, *reply], np.int32), supervised)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
