"""How many padded tokens run through a model at once: halved when that is more than the device's memory holds.

What is computed never depends on how it is cut, so running out of memory costs time and changes no result. Ranks that
share a sharded model have to compute equally often: there, one that runs out of memory ends the run, and one that has
fewer micro-batches computes something for nothing.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from tunesmith.errors import RunError, TrainingError
from tunesmith.models.out_of_memory import as_out_of_memory
from tunesmith.training import ranks
from tunesmith.training.batches import MICRO_BATCH_TOKENS, E, MicroBatch

R = TypeVar("R")

log = logging.getLogger(__name__)


class TokenBudget:
    """At most `tokens` padded tokens in a micro-batch on `device`, unless one example alone has more."""

    def __init__(self, device: torch.device, tokens: int = MICRO_BATCH_TOKENS, *, sharded: bool = False) -> None:
        self.tokens = tokens
        self._device = device
        self._sharded = sharded

    def passes(
        self,
        examples: Sequence[E],
        cut: Callable[[Sequence[E], int], Sequence[MicroBatch[E]]],
        run: Callable[[MicroBatch[E]], R],
    ) -> Iterator[tuple[MicroBatch[E], R]]:
        """Each micro-batch of `examples` with what `run` makes of it; one that does not fit is `cut` again, smaller.

        For passes without a gradient: there, a micro-batch that failed has left nothing behind. Of a sharded model,
        every rank must have an example. Raises as `halve`.
        """
        waiting = deque(cut(examples, self.tokens) if examples else ())
        for _ in range(self.missing(len(waiting))):
            run(waiting[0])
        while waiting:
            batch = waiting.popleft()
            try:
                with as_out_of_memory():
                    made = run(batch)
            except torch.OutOfMemoryError as error:
                self.halve([batch], error)
                waiting.extendleft(reversed(cut(batch.examples, self.tokens)))
                continue
            yield batch, made

    def missing(self, batches: int) -> int:
        """How many micro-batches this rank of a sharded model has less than the one that has most."""
        return max(ranks.gather(batches)) - batches if self._sharded else 0

    def halve(self, batches: Sequence[MicroBatch[Any]], error: torch.OutOfMemoryError) -> None:
        """Allow half of what the largest of `batches` has, and say so.

        Raises TrainingError when none can be cut, RunError when the model is sharded.
        """
        if self._sharded:
            raise RunError(
                f"a micro-batch of {self.tokens:,} tokens does not fit into the memory of {self._device}; "
                "train in more processes, lower training.max_length, or use adapter.kind: lora"
            ) from error
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
