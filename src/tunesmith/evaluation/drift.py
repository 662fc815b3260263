"""How far the tuned model drifted from its base, on what the base itself says to general prompts; for any model.

The base answers each prompt by sampling from its own distribution; both models then score those replies. The mean
difference of their losses estimates the Kullback-Leibler divergence from base to tuned in nats per token, without any
reference answer: what the base would say has become so much less likely.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tunesmith.dataset.conversation import Conversation, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tunesmith.dataset.render import Renderer
    from tunesmith.models.load import Model

REPLY_TOKENS = 48
"""Of the base's reply to each general prompt; where a model drifted it shows in the first words."""


@dataclass(frozen=True)
class Scored:
    """A prompt with a reply that is scored: `tokens` (tokens,) int32, `supervised` (tokens,) bool."""

    tokens: NDArray[np.int32]
    supervised: NDArray[np.bool_]


def general_prompts() -> list[Conversation]:
    """The bundled prompts about nothing in particular."""
    from tunesmith.assets import general_prompts as path

    return [Conversation((Message("user", line),)) for line in path().read_text(encoding="utf-8").splitlines()]


def self_replies(
    model: "Model", tokenizer: "PreTrainedTokenizerBase", renderer: "Renderer", prompts: Sequence[Conversation]
) -> list[Scored]:
    """What `model` says to `prompts`, as rows to be scored."""
    from tunesmith.evaluation.generate import reply_seeds, sample

    asked = [renderer.prompt(prompt) for prompt in prompts]
    said = sample(model, tokenizer, asked, seeds=reply_seeds(0, len(asked)), max_new_tokens=REPLY_TOKENS)
    return [
        Scored(
            np.array([*prompt, *reply], dtype=np.int32),
            np.array([False] * len(prompt) + [True] * len(reply)),
        )
        for prompt, reply in zip(asked, said, strict=True)
    ]
