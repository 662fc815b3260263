import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tunesmith.errors import ModelError
from tunesmith.models.adapters import attach, count_parameters
from tunesmith.planning.meta_shape import shape_by_building
from tunesmith.planning.shapes import FAMILIES, known_models, load_shape, shape_of
from tunesmith.spec import AdapterSpec

PUBLISHED = {
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "google/gemma-2-9b-it": 9_241_705_984,
    "google/gemma-3-1b-it": 999_885_952,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "allenai/OLMo-2-1124-7B": 7_298_617_344,
    "google/gemma-3-270m": 268_098_176,
    "mistralai/Mistral-Nemo-Instruct-2407": 12_247_782_400,
    "mistralai/Mistral-Small-24B-Instruct-2501": 23_572_403_200,
    "microsoft/Phi-3-medium-4k-instruct": 13_960_238_080,
    "microsoft/Phi-4-mini-instruct": 3_836_021_760,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "openai/gpt-oss-20b": 20_914_757_184,
}
"""Parameter counts of the published checkpoints' safetensors."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_built_in_table_counts_as_many_parameters_as_were_published(name: str) -> None:
    assert load_shape(name).parameters == PUBLISHED[name]


@pytest.mark.slow
def test_every_model_of_the_table_is_counted_as_transformers_builds_it() -> None:
    for name, config in known_models().items():
        counted, built = shape_of(config, name), shape_by_building(dict(config), name)
        assert (counted.parameters, counted.active_parameters) == (built.parameters, built.active_parameters), name


def small(model_type: str, **changes: object) -> dict[str, object]:
    config: dict[str, object] = {
        "model_type": model_type,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 96,
        "vocab_size": 200,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
    }
    return config | changes


SMALL = [
    *(small(name) for name in FAMILIES if name not in ("mixtral", "qwen3_moe", "phi3", "olmo2", "qwen2")),
    small("phi3", head_dim=16),
    small("olmo2", head_dim=16),
    small("qwen2", head_dim=16),
    small("llama", tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    small("mixtral", num_local_experts=4, num_experts_per_tok=2),
    small("qwen3_moe", num_experts=8, num_experts_per_tok=2, moe_intermediate_size=48),
]


@pytest.mark.parametrize("config", SMALL, ids=lambda config: str(config["model_type"]))
def test_the_formula_counts_what_transformers_builds(config: dict[str, object]) -> None:
    counted = shape_of({"tie_word_embeddings": False, **config}, "m")
    built = shape_by_building({"tie_word_embeddings": False, **config}, "m")
    for field in (
        "parameters",
        "active_parameters",
        "linear_layers",
        "linear_inputs",
        "linear_outputs",
        "linear_weights",
    ):
        assert getattr(counted, field) == getattr(built, field), field


def test_an_architecture_without_a_formula_is_built_and_counted() -> None:
    config = {"model_type": "gpt_neox", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape = shape_of(config | {"intermediate_size": 128, "vocab_size": 300}, "pythia")
    assert shape.linear_layers == 2 * 4
    assert shape.parameters > 2 * 300 * 64


def test_matrices_that_are_stored_the_other_way_round_are_linear_layers_too() -> None:
    config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 300}
    shape = shape_of(config, "gpt2")
    assert shape.linear_layers == 2 * 4
    assert shape.linear_weights == 2 * 12 * 64 * 64
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert shape.lora_parameters(4) == count_parameters(attach(model, AdapterSpec(r=4))).trainable


def test_a_model_folder_is_read_from_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(small("llama", tie_word_embeddings=False)))
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "tokenizer.json").touch()
    assert load_shape(str(tmp_path)).hidden == 64


def test_a_config_that_lacks_a_size_is_named(tmp_path: Path) -> None:
    config = small("llama")
    del config["intermediate_size"]
    with pytest.raises(ModelError, match=r"broken.*intermediate_size"):
        shape_of(config, "broken")


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ModelError, match="no_such_architecture"):
        shape_of({"model_type": "no_such_architecture"}, "m")


def test_every_known_model_has_a_shape_and_a_context() -> None:
    for name, config in known_models().items():
        assert shape_of(config, name).context, name
