"""Our LoRA layer against PEFT's own (peft 0.21): outputs and gradients, fp32 and bf16."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from tiny_models import make_model
from torch import nn

from tunesmith.models.adapters import attach
from tunesmith.spec import AdapterSpec
from tunesmith.training.fast_lora import FastLinear, project, use_fast_lora


def a_layer(dtype: torch.dtype, bias: bool, **options: object) -> nn.Module:
    torch.manual_seed(0)
    holder = nn.Sequential(nn.Linear(24, 40, bias=bias, dtype=dtype))
    adapted = get_peft_model(holder, LoraConfig(r=4, lora_alpha=6, target_modules=["0"], **options))
    layer = adapted.base_model.model[0]
    nn.init.normal_(layer.lora_B["default"].weight, std=0.2)
    return layer


def run(layer: nn.Module, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(2)
    x = torch.randn(3, 5, 24, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = layer(x)
    output.backward(torch.randn(output.shape, dtype=output.dtype))
    found = [output, x.grad, layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad]
    layer.zero_grad()
    return found


def faster(layer: nn.Module) -> nn.Module:
    fast = copy.deepcopy(layer)
    use_fast_lora(fast)
    assert type(fast) is FastLinear
    return fast


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_output_and_gradients_are_those_of_peft(dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    layer = a_layer(dtype, bias)
    for ours, theirs in zip(run(faster(layer), dtype), run(layer, dtype), strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_dropout": 0.5}, {"lora_bias": True}])
def test_what_is_not_plain_lora_is_computed_by_peft(options: dict[str, object]) -> None:
    layer = a_layer(torch.float32, bias=True, **options)
    for ours, theirs in zip(run(faster(layer), torch.float32), run(layer, torch.float32), strict=True):
        assert torch.equal(ours, theirs)


def test_a_switched_off_adapter_gives_the_base() -> None:
    base = make_model()
    ids = torch.arange(8)[None]
    expected = base(ids).logits
    model = attach(base, AdapterSpec())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    use_fast_lora(model)
    with model.disable_adapter():
        assert torch.equal(model(ids).logits, expected)
    assert not torch.allclose(model(ids).logits, expected)


def test_every_adapted_layer_of_a_model_is_taken() -> None:
    model = attach(make_model(), AdapterSpec())
    use_fast_lora(model)
    kinds = {type(module) for module in model.modules() if isinstance(module, Linear)}
    assert kinds == {FastLinear}


def test_layers_that_learn_in_full_share_one_narrow_copy_of_their_input() -> None:
    layers = [torch.nn.Linear(32, width) for width in (32, 16, 16)]
    x = torch.randn(9, 32, requires_grad=True)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autocast("cpu", torch.bfloat16):
        expected = [layer(x) for layer in layers]
        (by_x,) = torch.autograd.grad(sum(output.float().sum() for output in expected), x)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found = project(x, layers)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert len({tensor.data_ptr() for tensor in kept if tensor.shape == x.shape}) == 1
    (by_input,) = torch.autograd.grad(sum(output.float().sum() for output in found), x)
    torch.testing.assert_close(by_input, by_x, rtol=2e-2, atol=2e-2)
