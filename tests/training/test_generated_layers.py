"""A layer as one program computes the numbers of the model's own; what Inductor makes of it: `test_forest_mask`."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import CONFIGS, SHAPE
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import AutoModelForCausalLM, Qwen2Config

from tunesmith.models.adapters import attach
from tunesmith.spec import AdapterSpec
from tunesmith.training import generated_layers
from tunesmith.training.fast_lora import use_fast_lora
from tunesmith.training.forest_mask import forest_mask
from tunesmith.training.generated_layers import is_worth_generating, layer_weights, use_generated_layer
from tunesmith.training.shared_prefix import plant

CPU = torch.device("cpu")
LORA = AdapterSpec(r=4, alpha=8)


def dense_attention(query: Tensor, key: Tensor, value: Tensor, *, block_mask: BlockMask, **options: Any) -> Tensor:
    """What FlexAttention computes; on a CPU it has no backward pass."""
    every, none = torch.arange(query.shape[2]), torch.zeros((), dtype=torch.long)
    seen = block_mask.mask_mod(none, none, every[:, None], every[None])
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen[None, None], scale=options["scale"], enable_gqa=options["enable_gqa"]
    )


def build(architecture: str, adapter: AdapterSpec) -> Any:
    torch.manual_seed(0)
    config = {"qwen2": Qwen2Config, **CONFIGS}[architecture](**SHAPE | {"initializer_range": 0.1})
    model: Any = attach(AutoModelForCausalLM.from_config(config), adapter)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.05)
    use_fast_lora(model)
    return model


def layers_of(model: Any) -> Any:
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).model.layers


def run(model: Any, lengths: list[int], *, dense: bool) -> tuple[Tensor, Tensor]:
    """The hidden states behind the layers of rows on a forest, and all gradients of their mean square."""
    numbers = np.random.default_rng(0)
    shared = numbers.integers(0, 90, 9)
    forest = plant([np.concatenate([shared, numbers.integers(0, 90, size)]).astype(np.int32) for size in lengths])
    mask: Any = forest_mask(forest, CPU)
    if dense:
        every, none = torch.arange(len(forest.tokens)), torch.zeros((), dtype=torch.long)
        mask = mask.mask_mod(none, none, every[:, None], every[None])[None, None]
    base = (model.get_base_model() if hasattr(model, "get_base_model") else model).model
    hidden = base.embed_tokens(torch.from_numpy(forest.tokens.astype(np.int64))[None])
    angles = base.rotary_emb(hidden, position_ids=torch.from_numpy(forest.position_ids)[None])
    for layer in base.layers:
        hidden = layer(hidden, attention_mask=mask, position_embeddings=angles)
    hidden.square().mean().backward()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return hidden.detach(), torch.cat(gradients)


@pytest.mark.parametrize("adapter", [LORA, AdapterSpec(kind="full")], ids=["lora", "full"])
@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_layer_as_one_program_is_the_models_own(
    architecture: str, adapter: AdapterSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generated_layers, "flex_attention", dense_attention)
    monkeypatch.setattr(generated_layers, "compiled", lambda function: function)
    model = build(architecture, adapter)
    expected, by_own = run(model, [20, 11, 5], dense=True)
    for layer in layers_of(model):
        use_generated_layer(layer)
    found, by_program = run(model, [20, 11, 5], dense=False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (by_program - by_own).norm() <= 1e-6 * by_own.norm()


def test_one_program_serves_all_layers_and_any_number_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> torch.fx.GraphModule:
        made.append(graph)
        return graph

    compiled = functools.cache(lambda function: torch.compile(function, dynamic=True, backend=backend))
    monkeypatch.setattr(generated_layers, "flex_attention", dense_attention)
    monkeypatch.setattr(generated_layers, "compiled", compiled)
    model = build("llama", LORA)
    for layer in layers_of(model):
        use_generated_layer(layer)
    for lengths in ([20, 11, 5], [40, 3], [7, 8, 9, 10, 90]):
        run(model, lengths, dense=False)
    assert len(made) == 1


@pytest.mark.parametrize("adapter", [AdapterSpec(r=4, alpha=8, dora=True), AdapterSpec(r=4, alpha=8, dropout=0.1)])
def test_what_is_no_plain_adapter_is_left_to_the_model(adapter: AdapterSpec) -> None:
    model = build("llama", adapter).train()
    assert layer_weights(layers_of(model)[0]) is None


def test_without_its_adapter_a_layer_has_none() -> None:
    model = build("llama", LORA)
    with model.disable_adapter():
        weights = layer_weights(layers_of(model)[0])
    assert weights is not None and weights.query.down is None
    model.merge_adapter()
    assert layer_weights(layers_of(model)[0]) is None


def test_a_short_run_is_not_worth_a_minute() -> None:
    assert not is_worth_generating(steps=500, layers=16)
    assert is_worth_generating(steps=2000, layers=16)
