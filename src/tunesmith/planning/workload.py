"""What a training step computes on: the method, and the rows that run through the model at once."""

from typing import Literal

from msgspec import Struct

from tunesmith.planning.shapes import ModelShape

Method = Literal["full", "lora", "qlora", "prefix", "prompt", "dpo", "grpo", "ppo"]
"""Adapters under supervised fine-tuning; `dpo`, `grpo` and `ppo` (RLHF) train a LoRA adapter."""

Precision = Literal["fp32", "bf16"]

VIRTUAL_TOKENS = 20
"""Of prefix and prompt tuning; PEFT's examples use about so many."""


class Workload(Struct, frozen=True):
    """What one forward and backward pass holds: `rows` of `length` tokens, a share of which is supervised.

    `ranks` processes train together, each with `rows` of its own; full fine-tuning shares weights, gradients and
    optimizer state among them (FSDP, fully sharded), and an adapter its frozen base where it is `sharded`. `rollouts`
    are the replies that a step of GRPO or PPO samples, `virtual_tokens` those of prefix and prompt tuning.
    """

    rows: int
    length: int
    supervised_share: float = 0.5
    precision: Precision = "bf16"
    rank: int = 16
    checkpointing: bool = False
    ranks: int = 1
    sharded: bool = False
    rollouts: int = 64
    device: Literal["cpu", "cuda"] = "cuda"
    virtual_tokens: int = VIRTUAL_TOKENS

    @property
    def tokens(self) -> int:
        """Padded tokens in the micro-batch."""
        return self.rows * self.length

    @property
    def supervised(self) -> int:
        """Tokens of the micro-batch that have a loss."""
        return max(1, round(self.tokens * self.supervised_share))

    @property
    def own_rollouts(self) -> int:
        """Replies that one rank samples."""
        return max(1, self.rollouts // self.ranks)

    @property
    def width(self) -> int:
        """Bytes of a number that is computed with."""
        return 4 if self.precision == "fp32" else 2


def trainable_parameters(
    shape: ModelShape, method: Method, rank: int = 16, virtual_tokens: int = VIRTUAL_TOKENS
) -> int:
    """Parameters that learn."""
    match method:
        case "full":
            return shape.parameters
        case "prefix":
            return virtual_tokens * 2 * shape.layers * shape.kv_width  # keys and values in front of every layer's
        case "prompt":
            return virtual_tokens * shape.hidden
        case _:
            return shape.lora_parameters(rank)
