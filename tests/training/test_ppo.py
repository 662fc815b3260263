import torch

from tunesmith.training.objectives.ppo import generalized_advantages


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
