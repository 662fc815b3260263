"""The cases of `benchmarks.memory`: the grid that the count was made with, cases unlike it, and ranks."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs

from tunesmith.planning.workload import Method, Precision, Workload

COMMON: dict[str, Any] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}

GRID: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 256, "intermediate_size": 704, "vocab_size": 4000},
    "qwen2": {"hidden_size": 384, "intermediate_size": 1536, "vocab_size": 8000, "tie_word_embeddings": True},
    "qwen3": {"hidden_size": 256, "intermediate_size": 768, "vocab_size": 8000, "head_dim": 64},
    "phi3": {"hidden_size": 256, "intermediate_size": 704, "vocab_size": 6000, "pad_token_id": 0, "eos_token_id": 1},
}
"""What the count was made with."""

HELD_OUT: dict[str, dict[str, Any]] = {
    "mistral": {"hidden_size": 320, "intermediate_size": 896, "vocab_size": 512, "num_hidden_layers": 5}
    | {"num_attention_heads": 10, "num_key_value_heads": 2},
    "llama": {"hidden_size": 128, "intermediate_size": 512, "vocab_size": 32000, "num_hidden_layers": 8}
    | {"num_attention_heads": 4, "tie_word_embeddings": True},
    "qwen3": {"hidden_size": 512, "intermediate_size": 1400, "vocab_size": 3000, "num_hidden_layers": 2}
    | {"num_key_value_heads": 1, "head_dim": 128},
    "qwen2": {"hidden_size": 448, "intermediate_size": 2432, "vocab_size": 20000, "num_hidden_layers": 4}
    | {"num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "phi3": {"hidden_size": 384, "intermediate_size": 1024, "vocab_size": 2000, "num_hidden_layers": 5}
    | {"num_attention_heads": 6, "num_key_value_heads": 6, "pad_token_id": 0, "eos_token_id": 1},
    "smollm3": {"hidden_size": 320, "intermediate_size": 1100, "vocab_size": 10000, "num_hidden_layers": 4}
    | {"num_key_value_heads": 2, "pad_token_id": 0, "tie_word_embeddings": True},
    "gemma3_text": {"hidden_size": 192, "intermediate_size": 768, "vocab_size": 16000, "num_hidden_layers": 4}
    | {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 96, "tie_word_embeddings": True},
    "gemma2": {"hidden_size": 256, "intermediate_size": 1024, "vocab_size": 12000, "num_hidden_layers": 4}
    | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "tie_word_embeddings": True},
    "olmo2": {"hidden_size": 256, "intermediate_size": 900, "vocab_size": 9000, "num_key_value_heads": 8},
}
"""Other families, widths, depths, heads, groups of heads and vocabularies."""

METHODS: tuple[Method, ...] = ("full", "lora", "qlora", "prefix", "prompt", "dpo", "grpo", "ppo")


@dataclass(frozen=True)
class Case:
    """One cell: a shape of `GRID` or `HELD_OUT`, a method and a workload."""

    family: str
    method: Method
    work: Workload
    held_out: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """The model's config.json."""
        shapes = HELD_OUT if self.held_out else GRID
        return {"model_type": self.family, **COMMON, **shapes[self.family]}

    def __str__(self) -> str:
        work, usual = self.work, Workload(1, 1)
        named = [self.family, self.method, work.precision, f"{work.rows}x{work.length}"]
        if work.supervised_share != usual.supervised_share:
            named.append(f"{work.supervised_share:.0%} supervised")
        if work.rank != usual.rank:
            named.append(f"rank {work.rank}")
        if work.virtual_tokens != usual.virtual_tokens:
            named.append(f"{work.virtual_tokens} virtual tokens")
        if self.method in ("grpo", "ppo") and work.rollouts != REPLIES:
            named.append(f"{work.rollouts} replies")
        if work.checkpointing:
            named.append("checkpointed")
        if work.ranks > 1:
            named.append(f"{'sharded ' if work.sharded else ''}on {work.ranks} ranks")
        return " ".join(named)


REPLIES = 8
"""What GRPO and PPO sample a step, unless a case says otherwise."""


def grid(families: Iterable[str] = GRID, methods: Iterable[Method] = METHODS) -> list[Case]:
    """Families × methods × precisions × (micro-batch, sequence length) × checkpointing.

    Checkpointing throws away the cache that prefix tuning's keys are in, so transformers has no such step.
    """
    axes = itertools.product(families, methods, ("fp32", "bf16"), ((1, 64), (4, 192)), (False, True))
    return [
        Case(family, method, Workload(rows, length, 0.5, precision, 16, checkpointing, rollouts=REPLIES, device="cpu"))
        for family, method, precision, (rows, length), checkpointing in axes
        if not (checkpointing and method == "prefix")
    ]


def held_out() -> list[Case]:
    """Cases chosen to differ from the grid's in every number.

    The count was not made with them; where they showed what it lacked, it was mended.
    """

    def case(family: str, method: Method, precision: Precision, rows: int, length: int, **others: Any) -> Case:
        work = Workload(rows, length, precision=precision, device="cpu", **{"rollouts": REPLIES, **others})
        return Case(family, method, work, held_out=True)

    return [
        case("mistral", "full", "fp32", 3, 160),
        case("mistral", "full", "bf16", 1, 512, supervised_share=0.1),
        case("mistral", "lora", "fp32", 1, 1024, supervised_share=0.9, rank=4),
        case("mistral", "dpo", "bf16", 1, 96, rank=64, checkpointing=True),
        case("llama", "full", "fp32", 16, 32, supervised_share=0.9),
        case("llama", "full", "fp32", 8, 160, supervised_share=0.9),
        case("llama", "full", "bf16", 8, 160, supervised_share=0.9, checkpointing=True),
        case("llama", "lora", "fp32", 1, 24, rank=64, checkpointing=True),
        case("llama", "lora", "bf16", 8, 160, supervised_share=0.9),
        case("llama", "grpo", "fp32", 2, 96, rollouts=32),
        case("qwen3", "full", "fp32", 2, 96, checkpointing=True),
        case("qwen3", "lora", "bf16", 1, 512, supervised_share=0.1, rank=64),
        case("qwen3", "dpo", "fp32", 1, 512, supervised_share=0.1, checkpointing=True),
        case("qwen3", "prefix", "fp32", 2, 96, virtual_tokens=200),
        case("qwen2", "full", "bf16", 2, 96),
        case("qwen2", "qlora", "bf16", 1, 512, rank=4, checkpointing=True),
        case("qwen2", "prompt", "fp32", 2, 96, virtual_tokens=100),
        case("qwen2", "ppo", "fp32", 16, 32, supervised_share=0.1, checkpointing=True),
        case("phi3", "full", "fp32", 1, 24),
        case("phi3", "lora", "fp32", 3, 160, supervised_share=0.1, rank=64),
        case("phi3", "qlora", "fp32", 1, 512, supervised_share=0.9),
        case("phi3", "prefix", "bf16", 1, 96, virtual_tokens=100),
        case("smollm3", "full", "fp32", 1, 24),
        case("smollm3", "lora", "bf16", 3, 160, rank=8),
        case("smollm3", "qlora", "fp32", 16, 32, checkpointing=True),
        case("smollm3", "grpo", "bf16", 1, 512, supervised_share=0.9),
        case("gemma3_text", "full", "bf16", 1, 160),
        case("gemma3_text", "lora", "fp32", 2, 96, supervised_share=0.9),
        case("gemma3_text", "prompt", "bf16", 16, 32, checkpointing=True),
        case("gemma2", "full", "fp32", 1, 512),
        case("gemma2", "lora", "bf16", 2, 96, rank=64),
        case("gemma2", "dpo", "fp32", 1, 1024, supervised_share=0.1, checkpointing=True),
        case("olmo2", "full", "fp32", 3, 160, supervised_share=0.1),
        case("olmo2", "lora", "bf16", 1, 1024, checkpointing=True),
        case("olmo2", "prefix", "fp32", 8, 48),
        case("olmo2", "ppo", "bf16", 3, 160, supervised_share=0.9, rank=64),
    ]


def ranked() -> list[Case]:
    """Full fine-tuning on two ranks, and on four: what is sharded; an adapter, whose base is sharded or not."""

    def case(family: str, method: Method, precision: Precision, rows: int, length: int, **others: Any) -> Case:
        work = Workload(rows, length, precision=precision, device="cpu", **{"ranks": 2, **others})
        return Case(family, method, work)

    alone = [
        case(family, "full", *size)
        for family in ("llama", "qwen2")
        for size in (("fp32", 1, 64), ("fp32", 4, 192), ("bf16", 1, 64), ("bf16", 4, 192))
    ]
    checkpointed = [replace(one, work=structs.replace(one.work, checkpointing=True)) for one in alone]
    others = [
        case("llama", "full", "fp32", 1, 64, ranks=4),
        case("llama", "full", "fp32", 4, 192, ranks=4),
        case("llama", "full", "bf16", 1, 64, ranks=4),
        replace(case("qwen3", "full", "fp32", 2, 96), held_out=True),
        replace(case("qwen3", "full", "bf16", 2, 96), held_out=True),
        replace(case("llama", "full", "fp32", 2, 96), held_out=True),
        replace(case("llama", "full", "bf16", 2, 96), held_out=True),
        case("qwen2", "lora", "fp32", 1, 64),
    ]
    sharded = [
        case("llama", "lora", "fp32", 1, 64, sharded=True),
        case("llama", "lora", "bf16", 4, 192, sharded=True),
        case("qwen2", "lora", "fp32", 1, 64, sharded=True),
        case("qwen2", "lora", "bf16", 4, 192, sharded=True),
        case("qwen2", "lora", "bf16", 2, 96, ranks=4, sharded=True),
        replace(case("qwen3", "lora", "bf16", 2, 96, sharded=True), held_out=True),
        replace(case("qwen2", "lora", "bf16", 2, 96, sharded=True, checkpointing=True), held_out=True),
    ]
    return alone + checkpointed + others + sharded
