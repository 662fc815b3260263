"""What a GPU's attention over a forest may see, and the kernels beside it; on a GPU, that they change no number."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from tunesmith.models.adapters import attach
from tunesmith.spec import AdapterSpec
from tunesmith.training import engine as engine_module
from tunesmith.training.batches import Example, Row, micro_batches
from tunesmith.training.bench import Work
from tunesmith.training.bench_worker import LONG_RUN, make_pairs, make_rows
from tunesmith.training.engine import Engine, make_optimizer
from tunesmith.training.forest_mask import forest_mask
from tunesmith.training.fused import rms_norm, rotate, swiglu
from tunesmith.training.objectives.dpo import Dpo
from tunesmith.training.objectives.sft import Sft
from tunesmith.training.shared_prefix import Forest, plant

CPU = torch.device("cpu")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

forests = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 300)), min_size=1, max_size=8).map(
    lambda rows: plant(
        [np.array([*range(shared), *range(900 + index, 900 + index + own)]) for index, (shared, own) in enumerate(rows)]
    )
)


def seen(forest: Forest) -> torch.Tensor:
    """Which token (first axis) sees which, by the segments' own definition."""
    sees = torch.zeros(len(forest.tokens), len(forest.tokens), dtype=torch.bool)
    for segment in forest.segments:
        for ancestor in segment.ancestors:
            sees[segment.start : segment.end, ancestor.start : ancestor.end] = True
        size = segment.end - segment.start
        sees[segment.start : segment.end, segment.start : segment.end] = torch.ones(size, size).tril().bool()
    return sees


@given(forests)
def test_the_mask_lets_each_token_see_its_ancestors_and_what_stands_before_it_in_its_segment(forest: Forest) -> None:
    mask = forest_mask(forest, CPU)
    every = torch.arange(len(forest.tokens))
    no_head = torch.zeros(())
    assert torch.equal(mask.mask_mod(no_head, no_head, every[:, None], every[None]), seen(forest))
    by_torch = create_block_mask(mask.mask_mod, None, None, len(every), len(every), device="cpu")
    assert torch.equal(mask.to_dense(), by_torch.to_dense())
    assert mask.full_kv_num_blocks is not None and by_torch.full_kv_num_blocks is not None
    assert torch.equal(mask.full_kv_num_blocks, by_torch.full_kv_num_blocks)


def test_the_fused_expressions_are_the_models_own() -> None:
    torch.manual_seed(0)
    norm = LlamaRMSNorm(48, eps=1e-5)
    torch.nn.init.normal_(norm.weight)
    x, up = torch.randn(2, 7, 48), torch.randn(2, 7, 48)
    torch.testing.assert_close(rms_norm(x, norm.weight, 1e-5), norm(x))
    torch.testing.assert_close(swiglu(x, up), torch.nn.functional.silu(x) * up)
    query, key, angles = torch.randn(2, 3, 7, 16), torch.randn(2, 1, 7, 16), torch.randn(2, 7, 8).repeat(1, 1, 2)
    expected = apply_rotary_pos_emb(query, key, angles.cos(), angles.sin())
    for states, turned in zip((query, key), expected, strict=True):
        found = rotate(states.transpose(1, 2), angles.cos().unsqueeze(2), angles.sin().unsqueeze(2))
        torch.testing.assert_close(found.transpose(1, 2), turned)


def test_a_gpu_gets_few_micro_batches_a_cpu_ones_with_little_padding() -> None:
    rows = [Row(np.zeros(size, np.int32), np.ones(size, np.bool_)) for size in (64, 128, 256, 512)]
    cpu, gpu = (micro_batches(rows, 4096, torch.device(name)) for name in ("cpu", "cuda"))
    assert len(gpu) == 1 < len(cpu)


def loss_and_gradients(
    examples: list[Example], objective: str, adapter: AdapterSpec, *, forest: bool, planned_steps: int = 0
) -> tuple[float, torch.Tensor]:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1, intermediate_size=512,
        vocab_size=2000,
    )  # fmt: skip
    model = attach(LlamaForCausalLM(config).cuda(), adapter)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    made = Dpo(model, loss_type="sigmoid", beta=0.1) if objective == "dpo" else Sft(model)
    with pytest.MonkeyPatch.context() as patch:
        if not forest:
            patch.setattr(engine_module, "use_forest_attention", lambda _model: False)
        optimizer = make_optimizer(model, weight_decay=0.0)
        engine = Engine(
            model, made, optimizer, device=torch.device("cuda"), bf16=False, max_grad_norm=1e9, seed=0,
            planned_steps=planned_steps,
        )  # fmt: skip
        assert engine._planted is forest
    model.train()
    loss, _ = engine._accumulate_gradients(examples, 0)
    gradients = [parameter.grad.flatten().double() for parameter in model.parameters() if parameter.grad is not None]
    return float(loss), torch.cat(gradients)


@on_a_gpu
@pytest.mark.parametrize("planned_steps", [0, LONG_RUN], ids=["pieces", "whole-layers"])
@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_on_a_gpu_a_forest_gives_the_plain_paths_loss_and_gradients(
    kind: str, objective: str, planned_steps: int
) -> None:
    work = Work("tunesmith", "", vocabulary=2000, steps=0, shared=300, batch_size=8)
    pairs = [replace(pair, reference=(-100.0, -101.0)) for pair in make_pairs(work)]
    examples: list[Example] = [*pairs] if objective == "dpo" else [*make_rows(work)]
    adapter = AdapterSpec(kind="full") if kind == "full" else AdapterSpec(r=8, alpha=16)
    plain, by_plain = loss_and_gradients(examples, objective, adapter, forest=False)
    planted, by_planted = loss_and_gradients(examples, objective, adapter, forest=True, planned_steps=planned_steps)
    assert planted == pytest.approx(plain, rel=1e-6)
    assert float((by_planted - by_plain).norm() / by_plain.norm()) < 1e-5
