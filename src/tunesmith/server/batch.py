"""Rows that are generated together: one forward pass gives each of them its next token.

The rows share a key-value cache padded on the left, with positions per row, so rows of any length stand side by side,
join after their prompt has been read and leave when they end. Joining and leaving copy the cache; a step costs about
as much for sixteen rows as for one, which is what batching is for.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from tunesmith.models.generation import cache_argument

if TYPE_CHECKING:
    from transformers import PreTrainedModel


SCORED_AT_ONCE = 256
"""Prompt tokens whose logits are held at a time: 128 MB for a vocabulary of 128k."""


class Batch:
    """The cache, mask and latest tokens of the rows in flight; the caller keeps the rows themselves, in this order."""

    def __init__(self, model: "PreTrainedModel") -> None:
        # Any: torch types a call of a module, and of what wraps it, differently from version to version.
        self._model: Any = model
        self._cache = DynamicCache()
        self._mask = torch.zeros((0, 0), dtype=torch.long, device=model.device)  # (rows, tokens in the cache)
        self._cache_argument = cache_argument(model)

    def __len__(self) -> int:
        return len(self._mask)

    @property
    def length(self) -> int:
        """Columns of the cache: tokens of the longest row."""
        return self._mask.shape[1]

    def join(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> Tensor:
        """Read `prompts` and add `copies[i]` rows for the i-th; returns their logits (new rows, vocabulary)."""
        longest = max(len(prompt) for prompt in prompts)
        device = self._mask.device
        input_ids = torch.zeros((len(prompts), longest), dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        for row, prompt in enumerate(prompts):
            input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        mask = mask.to(device)
        cache = DynamicCache()
        logits = self._forward(input_ids.to(device), mask, cache)
        repeats = torch.tensor(copies, device=device)
        for layer in _layers(cache):
            layer.keys = layer.keys.repeat_interleave(repeats, dim=0)
            layer.values = layer.values.repeat_interleave(repeats, dim=0)
        self._append(cache, mask.repeat_interleave(repeats, dim=0))
        return logits.repeat_interleave(repeats, dim=0)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Feed each row its latest token; returns the logits of the next one, (rows, vocabulary)."""
        ones = self._mask.new_ones((len(self), 1))
        self._mask = torch.cat((self._mask, ones), dim=1)
        input_ids = torch.tensor(tokens, device=self._mask.device)[:, None]
        return self._forward(input_ids, self._mask, self._cache)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, and the columns that none of them needs."""
        index = torch.tensor(rows, dtype=torch.long, device=self._mask.device)
        mask = self._mask[index]
        first = int(mask.any(dim=0).int().argmax()) if len(rows) else self.length
        self._mask = mask[:, first:]
        for layer in _layers(self._cache):
            layer.keys = layer.keys[index, :, first:]
            layer.values = layer.values[index, :, first:]
        if not rows:
            self._cache = DynamicCache()
            self._mask = self._mask.new_zeros((0, 0))

    def _forward(self, input_ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Logits after the last token of each row; `cache` grows by the tokens of `input_ids` (rows, new tokens)."""
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        output: Any = self._model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_argument: cache},
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _append(self, cache: DynamicCache, mask: Tensor) -> None:
        if not len(self):
            self._cache, self._mask = cache, mask
            return
        length = max(self.length, mask.shape[1])
        for ours, theirs in zip(_layers(self._cache), _layers(cache), strict=True):
            ours.keys = torch.cat((_pad_left(ours.keys, length), _pad_left(theirs.keys, length)))
            ours.values = torch.cat((_pad_left(ours.values, length), _pad_left(theirs.values, length)))
        self._mask = torch.cat((pad(self._mask, (length - self.length, 0)), pad(mask, (length - mask.shape[1], 0))))


def prompt_logits(model: Any, prompt: Sequence[int]) -> Iterator[Tensor]:
    """The logits after each token of `prompt`, as (tokens, vocabulary), by parts: all of them would not fit at once."""
    cache = DynamicCache()
    argument = cache_argument(model)
    for start in range(0, len(prompt), SCORED_AT_ONCE):
        input_ids = torch.tensor([prompt[start : start + SCORED_AT_ONCE]], device=model.device)
        yield model(input_ids=input_ids, use_cache=True, **{argument: cache}).logits[0]


def _layers(cache: DynamicCache) -> list[Any]:
    """Its layers, each with `keys` and `values`; the class also declares kinds of layer that it does not make here."""
    return list(cache.layers)


def _pad_left(states: Tensor, length: int) -> Tensor:
    """`states` (rows, heads, tokens, width) with zeros before the tokens, up to `length` of them."""
    return pad(states, (0, 0, length - states.shape[2], 0))
