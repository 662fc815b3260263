"""Tiny random models of several architectures, random rendered rows, and the loss of transformers for both."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from tunesmith.training.batches import Row

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CONFIGS: dict[str, Callable[..., PretrainedConfig]] = {
    "llama": LlamaConfig,
    "qwen3": Qwen3Config,
    "mistral": MistralConfig,
    "gemma2": lambda **shape: Gemma2Config(**shape, final_logit_softcapping=3.0, sliding_window=16),
    "cohere": lambda **shape: CohereConfig(**shape, logit_scale=0.25),
    "granite": lambda **shape: GraniteConfig(**shape, logits_scaling=4.0),
}


def make_model(architecture: str = "llama", **changes: object) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[architecture](**(SHAPE | changes)))


def make_rows(count: int, *, seed: int = 0, longest: int = 40, vocabulary: int = 96) -> list[Row]:
    """Rows of varied length whose last third or so is supervised."""
    numbers = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        length = int(numbers.integers(6, longest))
        supervised = np.zeros(length, dtype=np.bool_)
        supervised[int(numbers.integers(1, length - 2)) :] = True
        rows.append(Row(numbers.integers(3, vocabulary, length).astype(np.int32), supervised))
    return rows


def reference_loss(model: PreTrainedModel, rows: Sequence[Row]) -> torch.Tensor:
    """transformers' own loss, one row at a time: the mean over all supervised tokens of `rows`."""
    total, count = torch.zeros(()), 0
    for row in rows:
        labels = torch.from_numpy(np.where(row.supervised, row.tokens, -100).astype(np.int64))
        supervised = int(row.supervised[1:].sum())
        output = model(input_ids=torch.from_numpy(row.tokens.astype(np.int64))[None], labels=labels[None])
        total = total + output.loss * supervised
        count += supervised
    return total / count
