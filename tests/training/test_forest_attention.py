"""A forest of rows against the padded rows: the same loss and the same gradients, within 1e-6 relative.

In fp32 where a model's own rounding stays below that; all architectures in fp64 (their norms and rotary angles still
compute in fp32).
"""

import numpy as np
import pytest
import torch
from tiny_models import SHAPE, make_model, make_rows
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GemmaConfig, PreTrainedModel

from tunesmith.models.adapters import attach
from tunesmith.spec import AdapterSpec
from tunesmith.training import forest_attention
from tunesmith.training.batches import MicroBatch, Row, collate, forest_batches, plant_batch
from tunesmith.training.fast_lora import use_fast_lora
from tunesmith.training.forest_attention import longest_planted, planted_where_possible, use_forest_attention
from tunesmith.training.objectives.dpo import Dpo
from tunesmith.training.preference import Pair
from tunesmith.training.token_loss import TokenLoss

RELATIVE = 1e-6
IN_FP32 = [(name, torch.float32) for name in ("llama", "qwen3", "mistral", "gemma")]
IN_FP64 = [(name, torch.float64) for name in ("gemma3", "cohere", "granite")]


def build(architecture: str) -> PreTrainedModel:
    torch.manual_seed(0)
    match architecture:
        case "gemma":
            return AutoModelForCausalLM.from_config(GemmaConfig(**SHAPE))
        case "gemma3":
            return AutoModelForCausalLM.from_config(Gemma3TextConfig(**SHAPE, sliding_window=64))
    return make_model(architecture)


def rows_with_a_shared_head(supervised_head: bool = False) -> list[Row]:
    """Ten rows behind one head of 20 tokens, three of which share 20 more; and two strangers."""
    numbers = np.random.default_rng(1)
    head, examples = numbers.integers(3, 96, 20), numbers.integers(3, 96, 20)
    rows = []
    for index, row in enumerate(make_rows(10, longest=20)):
        before = np.concatenate([head, examples] if index < 3 else [head])
        tokens = np.concatenate([before, row.tokens]).astype(np.int32)
        rows.append(Row(tokens, np.concatenate([np.full(len(before), supervised_head), row.supervised])))
    return rows + make_rows(2, seed=5, longest=30)


def with_adapter(model: PreTrainedModel) -> torch.nn.Module:
    adapted = attach(model, AdapterSpec(r=4, alpha=8))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted


def loss_and_gradients(model: torch.nn.Module, batches: list[MicroBatch]) -> tuple[float, torch.Tensor]:
    token_loss = TokenLoss(model)
    total = 0.0
    for batch in batches:
        loss = token_loss.of(batch).sum()
        loss.backward()
        total += loss.item()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return total, torch.cat(gradients)


def assert_same(model: torch.nn.Module, rows: list[Row], planted: list[MicroBatch]) -> None:
    expected_loss, expected = loss_and_gradients(model, [collate(rows)])
    use_fast_lora(model)
    assert use_forest_attention(model)
    assert longest_planted(model) > max(len(row.tokens) for row in rows)
    loss, gradients = loss_and_gradients(model, planted)
    assert loss == pytest.approx(expected_loss, rel=RELATIVE)
    assert (gradients - expected).norm() <= RELATIVE * expected.norm()


@pytest.mark.parametrize(("architecture", "dtype"), IN_FP32 + IN_FP64)
def test_loss_and_gradients_are_those_of_padded_rows_with_lora(architecture: str, dtype: torch.dtype) -> None:
    rows = rows_with_a_shared_head()
    batch = plant_batch(rows)
    assert batch.input_ids.numel() < 0.7 * sum(len(row.tokens) for row in rows)
    assert_same(with_adapter(build(architecture)).to(dtype), rows, [batch])


@pytest.mark.parametrize(("architecture", "dtype"), IN_FP32 + IN_FP64)
def test_loss_and_gradients_are_those_of_padded_rows_when_all_learn(architecture: str, dtype: torch.dtype) -> None:
    rows = rows_with_a_shared_head(supervised_head=True)
    assert_same(build(architecture).to(dtype), rows, [plant_batch(rows)])


def test_cutting_a_forest_changes_neither_loss_nor_gradients() -> None:
    rows = rows_with_a_shared_head()
    planted = forest_batches(rows, 80)
    assert len(planted) > 3
    assert all(batch.input_ids.numel() <= 80 for batch in planted)
    assert_same(with_adapter(build("llama")), rows, planted)


@pytest.mark.parametrize("queries", [7, forest_attention.BLOCK_QUERIES])
def test_without_compiled_kernels_it_is_the_same(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forest_attention, "available", lambda *states: False)
    monkeypatch.setattr(forest_attention, "BLOCK_QUERIES", queries)
    rows = rows_with_a_shared_head()
    assert_same(with_adapter(build("llama")), rows, [plant_batch(rows)])


@pytest.mark.parametrize(
    ("architecture", "changes"), [("gemma2", {}), ("llama", {"attention_dropout": 0.1})], ids=["capped", "dropout"]
)
def test_a_model_whose_attention_is_another_is_left_as_it_was(architecture: str, changes: dict[str, float]) -> None:
    model = make_model(architecture, **changes)
    before = model.config._attn_implementation
    assert not use_forest_attention(model)
    assert model.config._attn_implementation == before


def test_a_model_that_mixes_tokens_outside_attention_is_found_out() -> None:
    model = make_model()
    layer = model.model.layers[1]
    layer.register_forward_hook(lambda _module, _arguments, output: output + 0.5 * output.roll(1, dims=1))
    assert not use_forest_attention(model)
    assert model.config._attn_implementation == "sdpa"


def test_a_sliding_window_bounds_the_rows() -> None:
    model = build("gemma3")
    assert longest_planted(model) == 0
    assert use_forest_attention(model)
    assert longest_planted(model) == 64
    assert all(batch.forest is None for batch in planted_where_possible(model, make_rows(40, longest=90)))


def test_an_adapter_with_dropout_goes_the_plain_way() -> None:
    assert not use_forest_attention(attach(make_model(), AdapterSpec(dropout=0.1)))


def test_a_pair_computes_its_prompt_once_and_learns_the_same() -> None:
    numbers = np.random.default_rng(0)

    def row(prompt: np.ndarray, tokens: int) -> Row:
        whole = np.concatenate([prompt, numbers.integers(3, 96, tokens)]).astype(np.int32)
        return Row(whole, np.arange(len(whole)) >= len(prompt))

    prompts = [numbers.integers(3, 96, 25) for _ in range(4)]
    pairs = [Pair(row(prompt, 7), row(prompt, 11), reference=(-20.0, -30.0)) for prompt in prompts]
    model = with_adapter(build("llama")).double()
    dpo = Dpo(model, loss_type="sigmoid", beta=0.1)

    def run(batch: MicroBatch[Pair]) -> tuple[float, torch.Tensor]:
        total = dpo.loss(batch).total
        total.backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
        return total.item(), gradients

    expected_loss, expected = run(collate(pairs))
    use_fast_lora(model)
    assert use_forest_attention(model)
    (planted,) = forest_batches(pairs)
    assert planted.input_ids.numel() == 4 * (25 + 7 + 11)
    loss, gradients = run(planted)
    assert loss == pytest.approx(expected_loss, rel=RELATIVE)
    assert (gradients - expected).norm() <= RELATIVE * expected.norm()
