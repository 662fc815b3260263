"""Batched generation says what the model says alone, and samples what is likely as often as it is likely."""

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaForCausalLM,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from tunesmith.errors import ModelError
from tunesmith.evaluation import generate as module
from tunesmith.evaluation.generate import end_tokens, generate, reply_seeds, sample
from tunesmith.models.generation import continue_tokens


def some_prompts(count: int) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(9, 64, size=random.integers(1, 30)).tolist() for _ in range(count)]


def slow_greedy(model: LlamaForCausalLM, prompt: list[int], ends: list[int], limit: int) -> list[int]:
    """The definition: no cache, no batch, one forward pass per token."""
    tokens = list(prompt)
    for _ in range(limit):
        with torch.inference_mode():
            following = int(model(torch.tensor([tokens])).logits[0, -1].argmax())
        if following in ends:
            break
        tokens.append(following)
    return tokens[len(prompt) :]


def test_a_batch_gives_each_prompt_its_own_greedy_reply_in_order(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompts = some_prompts(12)
    ends = end_tokens(model.generation_config, tokenizer)
    expected = [tokenizer.decode(slow_greedy(model, prompt, ends, 10), skip_special_tokens=True) for prompt in prompts]
    replies = generate(model, tokenizer, prompts, max_new_tokens=10)
    assert replies == [text.strip() for text in expected]
    assert len(set(replies)) > 6  # the model is not one that says the same to everything


SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
}


@pytest.mark.parametrize(
    "config",
    [
        Qwen3Config(**SHAPE, head_dim=8),
        MistralConfig(**SHAPE, sliding_window=8),  # shorter than the prompts
        Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=8, query_pre_attn_scalar=8, sliding_window_pattern=2),
        GPT2Config(
            vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3, eos_token_id=1
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_padding_is_right_for_other_architectures(config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    other = AutoModelForCausalLM.from_config(config).eval()
    prompts = some_prompts(6)
    ends = end_tokens(other.generation_config, tokenizer)
    expected = [tokenizer.decode(slow_greedy(other, prompt, ends, 6), skip_special_tokens=True) for prompt in prompts]
    assert generate(other, tokenizer, prompts, max_new_tokens=6) == [text.strip() for text in expected]


def test_the_size_of_the_batch_changes_nothing(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = some_prompts(9)
    together = generate(model, tokenizer, prompts, max_new_tokens=8)
    monkeypatch.setattr(module, "BATCH_ROWS", 1)
    assert generate(model, tokenizer, prompts, max_new_tokens=8) == together


def test_a_reply_ends_at_the_turn_end_of_the_chat_template(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    turn = tokenizer.convert_tokens_to_ids("<|turn|>")
    assert end_tokens(model.generation_config, tokenizer) == [1, turn]
    prompts = some_prompts(40)
    ended = [slow_greedy(model, prompt, [1, turn], 20) for prompt in prompts]
    assert any(len(tokens) < 20 for tokens in ended)
    replies = generate(model, tokenizer, prompts, max_new_tokens=20)
    assert replies == [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in ended]


def test_sampling_settings_of_the_model_are_not_applied(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = some_prompts(6)
    greedy = generate(model, tokenizer, prompts, max_new_tokens=8)
    for name, value in {"do_sample": True, "temperature": 5.0, "top_k": 3, "repetition_penalty": 3.0}.items():
        monkeypatch.setattr(model.generation_config, name, value)
    assert generate(model, tokenizer, prompts, max_new_tokens=8) == greedy


def test_a_sampled_reply_is_that_of_its_seed_in_any_batch(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, seeds = some_prompts(9), reply_seeds(3, 9)
    together = sample(model, tokenizer, prompts, seeds=seeds, max_new_tokens=8)
    few = sample(model, tokenizer, prompts[4:7], seeds=seeds[4:7], max_new_tokens=8)
    assert few == together[4:7]
    monkeypatch.setattr(module, "BATCH_ROWS", 1)
    assert sample(model, tokenizer, prompts, seeds=seeds, max_new_tokens=8) == together
    assert sample(model, tokenizer, prompts, seeds=reply_seeds(4, 9), max_new_tokens=8) != together
    assert reply_seeds(3, 12)[:9] == seeds
    assert len(set(reply_seeds(3, 1000))) == 1000


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_tokens_are_drawn_as_often_as_they_are_likely(
    top_p: float, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    draws, temperature, prompt = 4000, 1.3, some_prompts(1)[0]
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([prompt])).logits[0, -1] / temperature, 0)
    likely = expected.sort(descending=True)
    dropped = likely.indices[likely.values.cumsum(0) - likely.values >= top_p]
    expected[dropped] = 0
    expected /= expected.sum()
    said = sample(
        model, tokenizer, [prompt] * draws, seeds=reply_seeds(0, draws), max_new_tokens=1, temperature=temperature,
        top_p=top_p,
    )  # fmt: skip
    found = np.bincount([tokens[0] for tokens in said], minlength=len(expected)) / draws
    assert found[dropped].sum() == 0
    errors = (found - expected.numpy()) / np.sqrt(expected.numpy().clip(1e-9) / draws)
    assert np.abs(errors).max() < 4  # standard errors


def test_no_prompts_give_no_replies(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    assert generate(model, tokenizer, [], max_new_tokens=8) == []


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_soft_tokens_stand_before_each_prompt_of_a_batch_unless_they_are_off(
    kind: type[PromptTuningConfig | PrefixTuningConfig], model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    soft: Any = get_peft_model(copy.deepcopy(model), kind(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    torch.nn.init.normal_(soft.prompt_encoder["default"].embedding.weight)
    prompts = some_prompts(12)
    ends = end_tokens(model.generation_config, tokenizer)
    expected = [tokenizer.decode(slow_greedy(soft, prompt, ends, 8), skip_special_tokens=True) for prompt in prompts]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert generate(soft, tokenizer, prompts, max_new_tokens=8) == [text.strip() for text in expected]
        base = generate(model, tokenizer, prompts, max_new_tokens=8)
        with soft.disable_adapter():
            assert generate(soft, tokenizer, prompts, max_new_tokens=8) == base
        assert generate(soft, tokenizer, prompts, max_new_tokens=8) != base


def test_replies_that_do_not_fit_into_memory_together_are_made_in_halves(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(model: Any, input_ids: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        if len(input_ids) > rows:
            raise torch.OutOfMemoryError
        return continue_tokens(model, input_ids, *rest, **options)

    prompts = some_prompts(7)
    expected = generate(model, tokenizer, prompts, max_new_tokens=4)
    monkeypatch.setattr(module, "continue_tokens", small)
    rows = 2
    assert generate(model, tokenizer, prompts, max_new_tokens=4) == expected
    rows = 0
    with pytest.raises(ModelError, match="a reply to one prompt does not fit"):
        generate(model, tokenizer, prompts, max_new_tokens=4)
