from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from tunesmith.errors import SpecError
from tunesmith.models.adapters import adapter_start, attach, count_parameters, save_adapter
from tunesmith.spec import AdapterSpec

LLAMA_31_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)


def tiny() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    return AutoModelForCausalLM.from_config(config)


def test_the_count_on_llama_8b_is_the_one_peft_reports_and_arithmetic_gives() -> None:
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(LLAMA_31_8B)
        model = attach(base, AdapterSpec(r=16, targets=targets))
    count = count_parameters(model)
    # r * (inputs + outputs) of q, o (4096 each way), k, v (1024 out), up and down (14336), in each of 32 layers
    by_hand = 32 * 16 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 2 * (4096 + 14336))
    assert (count.trainable, count.total) == model.get_nb_trainable_parameters()
    assert count.trainable == by_hand
    assert str(count) == "trainable: 32,505,856 of 8,062,767,104 (0.40%)"


def test_a_new_adapter_leaves_the_base_as_it_is() -> None:
    ids = torch.arange(6)[None]
    base = tiny().eval()
    with torch.no_grad():
        before = base(ids).logits
        after = attach(base, AdapterSpec()).eval()(ids).logits
    assert torch.equal(before, after)


def test_a_new_adapter_depends_on_the_seed_alone() -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        return [
            value for name, value in attach(tiny(), AdapterSpec(), seed=seed).named_parameters() if "lora_A" in name
        ]

    torch.rand(3)
    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_all_linear_adapts_every_linear_layer_but_the_head() -> None:
    model = attach(tiny(), AdapterSpec(r=2))
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_only_the_adapter_learns_and_in_fp32() -> None:
    model = attach(tiny().to(torch.bfloat16), AdapterSpec())
    learning = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert all("lora_" in name for name in learning)
    assert {value.dtype for value in learning.values()} == {torch.float32}


def test_full_lets_everything_learn() -> None:
    count = count_parameters(attach(tiny(), AdapterSpec(kind="full")))
    assert count.trainable == count.total


def test_a_target_that_the_model_lacks_is_named_with_those_it_has() -> None:
    with pytest.raises(SpecError, match=r"adapter\.targets: the model has no module `query`; it has .*q_proj"):
        attach(tiny(), AdapterSpec(targets=["q_proj", "query"]))


@pytest.mark.parametrize("target", ["self_attn", "input_layernorm", "model.layers.0.mlp"])
def test_a_target_that_is_no_matrix_is_refused_in_a_line(target: str) -> None:
    with pytest.raises(SpecError, match=rf"^adapter\.targets: `{target}` is a Llama\w+, no matrix; it has .*q_proj"):
        attach(tiny(), AdapterSpec(targets=["q_proj", target]))


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_soft_tokens_are_counted_as_peft_counts_them(kind: str) -> None:
    model = attach(tiny(), AdapterSpec(kind=kind, virtual_tokens=5))
    count = count_parameters(model)
    assert (count.trainable, count.total) == model.get_nb_trainable_parameters()
    # a prompt is 5 embeddings; a prefix is 5 keys and values of 32 in each of 2 layers
    assert count.trainable == {"prompt": 5 * 32, "prefix": 5 * 2 * 32 * 2}[kind]


def test_a_soft_prompt_begins_as_tokens_of_the_vocabulary() -> None:
    model = attach(tiny(), AdapterSpec(kind="prompt", virtual_tokens=5))
    embeddings = model.get_input_embeddings().weight
    prompt = model.prompt_encoder["default"].embedding.weight
    assert all(any(torch.equal(token, row) for row in embeddings) for token in prompt)


@pytest.mark.parametrize(
    ("option", "peft"),
    [
        ({"rslora": True}, {"use_rslora": True}),
        ({"dora": True}, {"use_dora": True}),
        ({"init": "gaussian"}, {"init_lora_weights": "gaussian"}),
        ({"init": "orthogonal"}, {"init_lora_weights": "orthogonal"}),
        ({"init": "pissa_niter_4"}, {"init_lora_weights": "pissa_niter_4"}),
        ({"init": "default"}, {"init_lora_weights": True}),
    ],
)
def test_the_options_of_lora_are_those_of_peft(option: dict[str, object], peft: dict[str, object]) -> None:
    config = attach(tiny(), AdapterSpec(r=4, **option)).peft_config["default"]
    assert {name: getattr(config, name) for name in peft} == peft


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_adapter_that_took_from_its_base_is_saved_as_one_that_fits_the_true_base(init: str, tmp_path: Path) -> None:
    ids = torch.arange(6)[None]
    spec = AdapterSpec(r=4, init=init)
    model = attach(tiny(), spec).eval()
    start = adapter_start(model, spec)
    with torch.no_grad():
        untrained = model(ids).logits
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter += 0.01
        trained = model(ids).logits
        save_adapter(model, tmp_path / "adapter", start)
        loaded = PeftModel.from_pretrained(tiny(), str(tmp_path / "adapter")).eval()
        torch.testing.assert_close(untrained, tiny().eval()(ids).logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(loaded(ids).logits, trained, atol=1e-5, rtol=1e-4)
        with loaded.disable_adapter():
            torch.testing.assert_close(loaded(ids).logits, untrained, atol=1e-5, rtol=1e-4)
