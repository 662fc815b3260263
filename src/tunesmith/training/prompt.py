"""What an online objective starts from: a prompt, to which the model makes its own replies."""

from dataclasses import dataclass

import numpy as np

from tunesmith.dataset.conversation import Conversation
from tunesmith.training.batches import Row


@dataclass(frozen=True)
class Prompt:
    """A prompt to reply to, as token ids; `answer` is the prompt with the data's own reply, where there is one."""

    tokens: tuple[int, ...]
    source: Conversation
    answer: Row | None

    @property
    def rows(self) -> tuple[Row, ...]:
        """The prompt, on which nothing is supervised."""
        return (Row(np.array(self.tokens, np.int32), np.zeros(len(self.tokens), np.bool_)),)
