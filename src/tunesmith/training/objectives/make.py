"""From the spec's objective to the object that the engine runs, and to the parameters that learn."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tunesmith.run_folder import RunFolder
from tunesmith.spec import DpoSpec, GrpoSpec, PpoSpec, RewardSpec, RlhfSpec, RunSpec, SftSpec, rewards_of
from tunesmith.training.objectives import Objective
from tunesmith.training.objectives.dpo import Dpo
from tunesmith.training.objectives.grpo import Grpo
from tunesmith.training.objectives.kto import Kto
from tunesmith.training.objectives.orpo import Orpo
from tunesmith.training.objectives.ppo import Ppo
from tunesmith.training.objectives.reward import Reward
from tunesmith.training.objectives.sft import Sft
from tunesmith.training.objectives.simpo import Simpo
from tunesmith.training.reference import Reference
from tunesmith.training.rewards import ModelReward, Rewards, RewardSource, open_reward, reward_names
from tunesmith.training.rollouts import Policy
from tunesmith.training.token_loss import TokenLoss

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tunesmith.models.load import Model
    from tunesmith.training.vllm_rollouts import VllmSampler


def make_objective(
    spec: RunSpec, model: "Model", tokenizer: "PreTrainedTokenizerBase", vllm: "VllmSampler | None" = None
) -> Objective[Any]:
    """The objective of `spec` for `model`, which is as training starts it; `vllm` draws the replies if there is one."""
    match spec.objective:
        case SftSpec():
            return Sft(model)
        case DpoSpec() as preference:
            return _preference(preference, model)
        case RewardSpec(center_rewards_coefficient=center):
            return Reward(model, center_rewards_coefficient=center)
        case GrpoSpec() | PpoSpec() as online:
            policy = _policy(spec, online, model, tokenizer, vllm)
            token_loss = TokenLoss(model, temperature=online.temperature)
            if isinstance(online, GrpoSpec):
                return Grpo(online, policy, token_loss)
            return Ppo(online, model, policy, token_loss)
        case RlhfSpec():
            raise AssertionError("rlhf is two runs, each with an objective of its own")


def learning_module(objective: Objective[Any], model: "Model") -> nn.Module:
    """All that learns: the model, and beside it a value head where the objective has one."""
    if isinstance(objective, Ppo):
        return nn.ModuleDict({"policy": model, "value_head": objective.value_head})
    return model


def needs_reference(spec: RunSpec) -> bool:
    """Whether the reference's log-probabilities belong to the objective's examples."""
    return isinstance(spec.objective, DpoSpec) and spec.objective.loss_type in ("sigmoid", "ipo", "kto")


def _preference(spec: DpoSpec, model: "Model") -> Objective[Any]:
    match spec.loss_type:
        case "sigmoid" | "ipo":
            return Dpo(model, loss_type=spec.loss_type, beta=spec.beta, sft_weight=spec.sft_weight)
        case "orpo":
            return Orpo(model, beta=spec.beta)
        case "simpo":
            return Simpo(model, beta=spec.beta, gamma=spec.simpo_gamma)
        case "kto":
            return Kto(
                model,
                beta=spec.beta,
                desirable_weight=spec.desirable_weight,
                undesirable_weight=spec.undesirable_weight,
            )


def _policy(
    spec: RunSpec,
    online: GrpoSpec | PpoSpec,
    model: "Model",
    tokenizer: "PreTrainedTokenizerBase",
    vllm: "VllmSampler | None",
) -> Policy:
    named = rewards_of(online)
    sources = [_reward_source(reward, model) for reward in named]
    return Policy(
        model,
        tokenizer,
        Reference(model, spec.adapter, temperature=online.temperature),
        Rewards(dict(zip(reward_names(named), sources, strict=True)), online.reward_weights),
        max_completion_length=online.max_completion_length,
        temperature=online.temperature,
        vllm=vllm,
    )


def _reward_source(reward: str, model: "Model") -> RewardSource:
    opened = open_reward(reward)
    if not isinstance(opened, RunFolder):
        return opened
    return ModelReward(
        opened, dtype=torch.bfloat16 if model.device.type == "cuda" else torch.float32, device=model.device
    )
