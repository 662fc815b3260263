"""Our layers against transformers' own (5.24): the loss and all gradients of a model within 1e-6 relative, fp32."""

import copy

import pytest
import torch
from tiny_models import CONFIGS, SHAPE, make_model, make_rows
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from tunesmith.models.adapters import attach
from tunesmith.spec import AdapterSpec
from tunesmith.training import cpu_kernels
from tunesmith.training.batches import MicroBatch, collate, plant_batch
from tunesmith.training.fast_layers import use_fast_layers
from tunesmith.training.fast_lora import use_fast_lora
from tunesmith.training.forest_attention import use_forest_attention
from tunesmith.training.token_loss import TokenLoss

RELATIVE = 1e-6


def build(architecture: str) -> PreTrainedModel:
    torch.manual_seed(0)
    shape = SHAPE | {"initializer_range": 0.1}  # with larger weights fp32 itself rounds by more than 1e-6
    model = AutoModelForCausalLM.from_config({"qwen2": Qwen2Config, **CONFIGS}[architecture](**shape))
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.9, 1.1)
    return model


def with_adapter(model: PreTrainedModel, **options: object) -> torch.nn.Module:
    adapted = attach(model, AdapterSpec(r=4, alpha=8, **options))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return adapted


def loss_and_gradients(model: torch.nn.Module, batch: MicroBatch) -> tuple[float, torch.Tensor]:
    loss = TokenLoss(model).of(batch).sum()
    loss.backward()
    found = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    model.zero_grad()
    return loss.item(), found


def assert_same(model: torch.nn.Module, fast: torch.nn.Module, batch: MicroBatch) -> None:
    expected_loss, expected = loss_and_gradients(model, batch)
    loss, found = loss_and_gradients(fast, batch)
    assert loss == pytest.approx(expected_loss, rel=RELATIVE)
    assert (found - expected).norm() <= RELATIVE * expected.norm()


def taken(model: torch.nn.Module) -> set[str]:
    return {type(module).__name__ for module in model.modules() if "forward" in vars(module)}


@pytest.mark.parametrize("planted", [True, False])
@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3"])
def test_loss_and_gradients_are_those_of_transformers(architecture: str, adapter: bool, planted: bool) -> None:
    model = with_adapter(build(architecture)) if adapter else build(architecture)
    batch = (plant_batch if planted else collate)(make_rows(6))
    if planted:
        assert use_forest_attention(model)
    fast = copy.deepcopy(model)
    use_fast_lora(fast)
    use_fast_layers(fast, planted=True)
    assert {name.removeprefix(architecture.capitalize()) for name in taken(fast)} == {
        "RMSNorm",
        "MLP",
        "Attention",
        "DecoderLayer",
    }
    assert_same(model, fast, batch)


@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
def test_without_compiled_kernels_they_are_the_same(adapter: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernels, "library", lambda dtype: None)
    model = with_adapter(build("llama")) if adapter else build("llama")
    assert use_forest_attention(model)
    fast = copy.deepcopy(model)
    use_fast_lora(fast)
    use_fast_layers(fast, planted=True)
    assert_same(model, fast, plant_batch(make_rows(6)))


def test_after_the_last_attention_only_what_is_read_is_computed() -> None:
    model = build("llama")
    assert use_forest_attention(model)
    use_fast_layers(model, planted=True)
    tokens: list[int] = []
    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda _module, arguments: tokens.append(arguments[0].shape[1]))
    batch = plant_batch(make_rows(6))
    token_loss = TokenLoss(model)
    tokens.clear()
    token_loss.of(batch)
    *before, last = tokens
    assert set(before) == {batch.input_ids.shape[1]}
    assert last == batch.positions.unique().numel() < batch.input_ids.shape[1]


def test_an_adapter_on_some_of_the_projections_learns_the_same() -> None:
    model = with_adapter(build("llama"), targets=["q_proj", "v_proj", "up_proj"])
    assert use_forest_attention(model)
    fast = copy.deepcopy(model)
    use_fast_lora(fast)
    use_fast_layers(fast, planted=True)
    assert_same(model, fast, plant_batch(make_rows(6)))


def test_a_switched_off_adapter_gives_the_base_and_generation_its_own() -> None:
    model = with_adapter(build("llama"))
    ids = torch.arange(3, 11)[None]
    with model.disable_adapter():
        expected = model(ids).logits
    replies = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False)
    use_fast_lora(model)
    use_fast_layers(model, planted=True)
    with model.disable_adapter():
        torch.testing.assert_close(model(ids).logits, expected)
    assert torch.equal(model.generate(input_ids=ids, max_new_tokens=8, do_sample=False), replies)


@pytest.mark.parametrize("architecture", ["gemma2", "cohere", "granite"])
def test_layers_that_compute_something_else_stay(architecture: str) -> None:
    model = make_model(architecture)
    use_fast_layers(model, planted=True)
    assert taken(model) == set()


def test_the_norm_of_bf16_states_is_as_near_as_transformers_own() -> None:
    torch.manual_seed(0)
    model = build("llama").to(torch.bfloat16)
    norm = model.model.norm
    x = torch.randn(40, 32, dtype=torch.bfloat16, requires_grad=True)
    slope = torch.randn(40, 32, dtype=torch.bfloat16)

    def run() -> list[torch.Tensor]:
        output = norm(x)
        return [output.detach(), *torch.autograd.grad(output, (x, norm.weight), slope)]

    theirs = run()
    use_fast_layers(model, planted=True)
    for mine, other in zip(run(), theirs, strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine - other).norm() <= 1e-2 * other.norm()
