"""PPO against its formulas written out row by row, since TRL has no PPO trainer any more to hold it against."""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import make_model, make_rows
from torch import Tensor

from tunesmith.errors import TrainingError
from tunesmith.models.adapters import attach
from tunesmith.spec import AdapterSpec, PpoSpec
from tunesmith.training.batches import Row, collate
from tunesmith.training.objectives.ppo import Ppo, generalized_advantages
from tunesmith.training.rollouts import Rollout
from tunesmith.training.token_loss import TokenLoss

SPEC = PpoSpec(
    reward="unused:here", kl_coef=0.2, vf_coef=0.3, gamma=0.95, lam=0.9, cliprange=0.05, cliprange_value=0.02
)


def make_ppo(
    rewards: list[float],
    references: list[Tensor],
    rows: list[Row],
    spec: PpoSpec = SPEC,
    drawn: Sequence[Tensor | None] = (None,) * 4,
) -> Ppo:
    """PPO of a model away from its base, whose replies, rewards and reference are given."""
    model = attach(make_model(), AdapterSpec())
    move(model, 0.05, seed=1)
    rollouts = [
        Rollout(row, reward, True, reference, drawn=by)
        for row, reward, reference, by in zip(rows, rewards, references, drawn, strict=False)
    ]
    policy = SimpleNamespace(rollouts=lambda prompts, seed: rollouts)
    ppo = Ppo(spec, model, policy, TokenLoss(model, temperature=spec.temperature))
    torch.nn.init.normal_(ppo.value_head.weight, 0, 0.1, generator=torch.Generator().manual_seed(2))
    return ppo


def move(model: torch.nn.Module, amount: float, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += amount * torch.randn(parameter.shape, generator=generator)


def logps_and_values(ppo: Ppo, row: Row) -> tuple[Tensor, Tensor]:
    """By transformers' own forward pass: of each token of the reply, and of the state that it is said in."""
    tokens = torch.from_numpy(row.tokens.astype(np.int64))
    output = ppo._model(input_ids=tokens[None], output_hidden_states=True)
    said = np.flatnonzero(row.supervised)
    logps = torch.log_softmax(output.logits[0, said - 1].float() / ppo._spec.temperature, 1)
    values = ppo.value_head(output.hidden_states[-1][0, said - 1]).squeeze(1)
    return logps[torch.arange(len(said)), tokens[said]], values


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("sampled_elsewhere", [False, True])
def test_a_step_is_the_clipped_policy_and_value_loss_over_all_tokens(
    sampled_elsewhere: bool, temperature: float
) -> None:
    """Where something else drew the replies, a token's part of the policy loss counts by its importance, cut at 3."""
    rows = make_rows(4)
    counts = [int(row.supervised.sum()) for row in rows]
    references = [torch.full((count,), -4.0) for count in counts]
    rewards = [1.0, -0.5, 0.3, 2.0]
    drawn = [torch.linspace(-1.0, -9.0, count) if sampled_elsewhere else None for count in counts]
    spec = SPEC.model_copy(update={"temperature": temperature})
    ppo = make_ppo(rewards, references, rows, spec, drawn)

    old, values, advantages = [], [], []
    with torch.no_grad():
        for row, reward, reference in zip(rows, rewards, references, strict=True):
            before, value = logps_and_values(ppo, row)
            earned = -SPEC.kl_coef * (before - reference)
            earned[-1] += reward
            old.append(before)
            values.append(value)
            advantages.append(generalized_advantages(earned, value, gamma=SPEC.gamma, lam=SPEC.lam))
    returns = torch.cat(advantages) + torch.cat(values)
    whitened = torch.cat(advantages) - torch.cat(advantages).mean()
    whitened = whitened / whitened.pow(2).mean().sqrt()

    prepared = ppo.prepare([], 0)
    move(ppo._model, 0.03, seed=3)  # an update later, some tokens are clipped
    loss = ppo.loss(collate(prepared)).total / ppo.weight(prepared)
    learning = [value for value in (*ppo._model.parameters(), *ppo.value_head.parameters()) if value.requires_grad]
    found = torch.autograd.grad(loss, learning)

    now, estimates = (torch.cat(parts) for parts in zip(*(logps_and_values(ppo, row) for row in rows), strict=True))
    ratio = torch.exp(now - torch.cat(old))
    clipped = torch.clamp(ratio, 1 - SPEC.cliprange, 1 + SPEC.cliprange)
    policy_losses = torch.maximum(-whitened * ratio, -whitened * clipped)
    if sampled_elsewhere:
        weights = torch.exp(torch.cat(old) - torch.cat([by for by in drawn if by is not None]))
        assert bool((weights > 3).any()) and bool((weights < 3).any())
        policy_losses = policy_losses * weights.clamp(max=3)
    policy_loss = policy_losses.mean()
    before = torch.cat(values)
    near = torch.clamp(estimates, before - SPEC.cliprange_value, before + SPEC.cliprange_value)
    value_loss = 0.5 * torch.maximum((estimates - returns) ** 2, (near - returns) ** 2).mean()
    expected = policy_loss + SPEC.vf_coef * value_loss
    assert bool((ratio != clipped).any()) and bool((near != estimates).any())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for one, other in zip(found, torch.autograd.grad(expected, learning), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * max(float(other.abs().max()), 1e-6))


@pytest.mark.parametrize("count", [1, 3])
def test_equal_rewards_say_nothing_and_break_nothing(count: int) -> None:
    """Their variance is zero: one reply of one token, or replies that are the same."""
    row = make_rows(1)[0]
    row = Row(row.tokens, np.arange(len(row.tokens)) == len(row.tokens) - 1)
    spec = SPEC.model_copy(update={"kl_coef": 0.0})
    ppo = make_ppo([0.7] * count, [torch.zeros(1)] * count, [row] * count, spec)
    prepared = ppo.prepare([], 0)
    assert all(estimate.advantages.abs().max() < 1e-2 for estimate in prepared)
    loss = ppo.loss(collate(prepared)).total / ppo.weight(prepared)
    assert bool(torch.isfinite(loss))


def test_a_reply_without_a_reward_is_refused() -> None:
    ppo = make_ppo([0.7, float("nan")], [torch.zeros(1)] * 2, make_rows(2))
    with pytest.raises(TrainingError, match="returned None, and ppo needs a number"):
        ppo.prepare([], 0)


def test_advantages_are_the_discounted_sums_of_the_errors_of_the_values() -> None:
    torch.manual_seed(0)
    rewards, values = torch.randn(7), torch.randn(7)
    gamma, lam = 0.9, 0.8
    following = [*values[1:].tolist(), 0.0]
    errors = [float(rewards[t]) + gamma * following[t] - float(values[t]) for t in range(7)]
    expected = [sum((gamma * lam) ** (later - t) * errors[later] for later in range(t, 7)) for t in range(7)]
    found = generalized_advantages(rewards, values, gamma=gamma, lam=lam)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_with_lambda_and_gamma_of_one_an_advantage_is_the_return_less_the_value() -> None:
    torch.manual_seed(0)
    rewards, values = torch.randn(5), torch.randn(5)
    returns = rewards.flip(0).cumsum(0).flip(0)
    torch.testing.assert_close(generalized_advantages(rewards, values, gamma=1.0, lam=1.0), returns - values)
