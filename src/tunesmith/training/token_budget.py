"""How many padded tokens run through a model at once: halved when that is more than the device's memory holds.

What is computed never depends on how it is cut, so running out of memory costs time and changes no result.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from tunesmith.errors import TrainingError
from tunesmith.training.batches import MICRO_BATCH_TOKENS, E, MicroBatch

R = TypeVar("R")

log = logging.getLogger(__name__)


class TokenBudget:
    """At most `tokens` padded tokens in a micro-batch on `device`, unless one example alone has more."""

    def __init__(self, device: torch.device, tokens: int = MICRO_BATCH_TOKENS) -> None:
        self.tokens = tokens
        self._device = device

    def passes(
        self,
        examples: Sequence[E],
        cut: Callable[[Sequence[E], int], Sequence[MicroBatch[E]]],
        run: Callable[[MicroBatch[E]], R],
    ) -> Iterator[tuple[MicroBatch[E], R]]:
        """Each micro-batch of `examples` with what `run` makes of it; one that does not fit is `cut` again, smaller.

        For passes without a gradient: there, a micro-batch that failed has left nothing behind.
        Raises TrainingError when one example alone does not fit.
        """
        waiting = deque(cut(examples, self.tokens) if examples else ())
        while waiting:
            batch = waiting.popleft()
            try:
                made = run(batch)
            except torch.OutOfMemoryError as error:
                self.halve([batch], error)
                waiting.extendleft(reversed(cut(batch.examples, self.tokens)))
                continue
            yield batch, made

    def halve(self, batches: Sequence[MicroBatch[Any]], error: torch.OutOfMemoryError) -> None:
        """Allow half of what the largest of `batches` has, and say so; raise TrainingError when none can be cut."""
        if all(len(batch.examples) == 1 for batch in batches):
            longest = max(len(row.tokens) for batch in batches for example in batch.examples for row in example.rows)
            raise TrainingError(
                f"a row of {longest:,} tokens does not fit into the memory of {self._device}; "
                "lower training.max_length, use adapter.kind: lora or a smaller model"
            ) from error
        self.tokens = min(self.tokens, max(batch.input_ids.numel() for batch in batches)) // 2
        log.warning(
            "out of memory on %s: going on with micro-batches of at most %s tokens, which changes no result",
            self._device,
            f"{self.tokens:,}",
        )
