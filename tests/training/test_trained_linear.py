"""Trained linear layers and heads against autograd's own: equal in fp32, in bf16 no further from it than autocast."""

import copy

import pytest
import torch
from torch import nn

from tunesmith.training.fast_lora import project
from tunesmith.training.token_loss import head_losses
from tunesmith.training.trained_linear import all_learn

PASSES = 2


def layers() -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(48, 64), nn.Linear(48, 32, bias=False)])


def plain(x: torch.Tensor, made_by: nn.ModuleList) -> tuple[torch.Tensor, ...]:
    return tuple(layer(x) for layer in made_by)


def gradients(function: object, made_by: nn.ModuleList, *, bf16: bool) -> torch.Tensor:
    """Of the input and all parameters, after two passes."""
    x = torch.randn(3, 5, 48, generator=torch.Generator().manual_seed(1)).requires_grad_()
    for _ in range(PASSES):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = function(x, made_by)
        sum(output.float().square().sum() for output in outputs).backward()
    found = torch.cat([part.grad.flatten() for part in (x, *made_by.parameters())])
    made_by.zero_grad()
    return found


def test_gradients_of_several_passes_are_those_of_autograd() -> None:
    expected = gradients(plain, layers(), bf16=False)
    torch.testing.assert_close(gradients(project, layers(), bf16=False), expected, rtol=1e-5, atol=1e-5)


def test_in_bf16_they_are_as_close_to_fp32_as_under_autocast() -> None:
    exact = gradients(plain, layers(), bf16=False)
    autocast = (gradients(plain, layers(), bf16=True) - exact).norm()
    assert 0 < (gradients(project, layers(), bf16=True) - exact).norm() <= 1.2 * autocast


def test_layers_of_which_not_all_learn_are_left_to_autograd() -> None:
    made = layers()
    x = torch.zeros(1, 48, requires_grad=True)
    assert all_learn(x, made)
    made[0].bias.requires_grad_(False)
    assert not all_learn(x, made)
    assert not all_learn(x.detach(), layers())


@pytest.mark.parametrize("bf16", [False, True])
def test_a_trained_heads_loss_and_gradients_are_those_of_autograd(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = nn.Linear(32, 1500, bias=False)  # more rows than are computed at once
    states, targets = torch.randn(7, 32), torch.randint(0, 1500, (7,))

    def losses_and_gradients(*, precise: bool) -> tuple[torch.Tensor, torch.Tensor]:
        own, hidden = copy.deepcopy(head), states.clone().requires_grad_()
        for _ in range(PASSES):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16 and not precise):
                losses = head_losses(own, hidden, targets)
            (losses * torch.linspace(0.1, 1, 7)).sum().backward()
        return losses.detach(), torch.cat([hidden.grad.flatten(), own.weight.grad.flatten()])

    kept = losses_and_gradients(precise=False)
    monkeypatch.setattr("tunesmith.training.trained_head.KEPT_BYTES", 0)
    again, exact = losses_and_gradients(precise=False), losses_and_gradients(precise=True)
    for ours, autograds, right in zip(kept, again, exact, strict=True):
        assert (ours - right).norm() <= 1e-6 * right.norm() + 1.2 * (autograds - right).norm()
