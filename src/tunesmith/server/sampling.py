"""From logits to the next token, for all rows of a batch at once, each with its own settings and its own luck.

A row's random numbers come from its own generator, so the same seed gives the same text in whatever company it is
generated. Greedy rows (temperature 0) take the likeliest token.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

COLDEST = 1e-6
"""A lower temperature than this is this one: logits divided by less overflow, and it draws the likeliest anyway."""


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens. `logprobs` is how many alternatives to report (0: the chosen one alone; None: nothing)."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None

    @property
    def changes_logits(self) -> bool:
        """Whether the row's logits must be touched before a token is chosen."""
        return bool(self.logit_bias) or self.presence_penalty != 0 or self.frequency_penalty != 0


@dataclass(frozen=True)
class TokenChoice:
    """A chosen token; `logprob` and `top` (token, log-probability) are the model's own, before any setting."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Samplable(Protocol):
    """What sampling needs to know of a row."""

    sampling: Sampling
    luck: np.random.Generator
    counts: Counter[int]

    def allowed(self) -> Tensor | None:
        """Which tokens may come next, (vocabulary) bool; None allows all."""


def choose_tokens(logits: Tensor, rows: Sequence[Samplable]) -> list[TokenChoice]:
    """The next token of each row from `logits` (rows, vocabulary)."""
    logits = logits.float()
    wanted = [index for index, row in enumerate(rows) if row.sampling.logprobs is not None]
    reported = dict(zip(wanted, torch.log_softmax(logits[wanted], dim=-1), strict=True)) if wanted else {}
    for index, row in enumerate(rows):
        _apply_settings(logits[index], row)
    tokens = logits.argmax(dim=-1).tolist()
    random = [index for index, row in enumerate(rows) if row.sampling.temperature > 0]
    if random:
        for index, token in zip(random, _draw(logits[random], [rows[index] for index in random]), strict=True):
            tokens[index] = token
    return [
        report(token, reported[index], rows[index].sampling.logprobs or 0) if index in reported else TokenChoice(token)
        for index, token in enumerate(tokens)
    ]


def _apply_settings(logits: Tensor, row: Samplable) -> None:
    """Penalties and biases as OpenAI defines them, then what is not allowed; changes `logits` (vocabulary) in place."""
    sampling = row.sampling
    if sampling.changes_logits:
        for token, count in row.counts.items():
            logits[token] -= sampling.presence_penalty + count * sampling.frequency_penalty
        for token, bias in sampling.logit_bias.items():
            logits[token] += bias
    allowed = row.allowed()
    if allowed is not None:
        logits[~allowed.to(logits.device)] = -torch.inf


def _draw(logits: Tensor, rows: Sequence[Samplable]) -> list[int]:
    """One token per row by inverse transform: the first whose cumulative probability passes the row's number."""
    temperatures = torch.tensor([max(row.sampling.temperature, COLDEST) for row in rows], device=logits.device)
    probabilities = torch.softmax(logits / temperatures[:, None], dim=-1)
    order = None
    if any(row.sampling.top_p < 1 for row in rows):
        probabilities, order = probabilities.sort(dim=-1, descending=True)
        limits = torch.tensor([row.sampling.top_p for row in rows], device=logits.device)
        before = probabilities.cumsum(dim=-1) - probabilities
        unlikely = before >= limits[:, None]
        unlikely[:, 0] = False  # the likeliest is always kept
        probabilities = probabilities.masked_fill(unlikely, 0)
    cumulative = probabilities.double().cumsum(dim=-1)
    luck = torch.tensor([row.luck.random() for row in rows], dtype=torch.float64, device=logits.device)
    places = torch.searchsorted(cumulative, (luck * cumulative[:, -1])[:, None], right=True)
    places = places.clamp_(max=logits.shape[-1] - 1)
    tokens = places if order is None else order.gather(-1, places)
    return [int(token) for token in tokens[:, 0].tolist()]


def report(token: int, logprobs: Tensor, count: int) -> TokenChoice:
    """`token` with its log-probability and the `count` likeliest, from `logprobs` (vocabulary)."""
    top: tuple[tuple[int, float], ...] = ()
    if count:
        best = logprobs.topk(min(count, len(logprobs)))
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenChoice(token, float(logprobs[token]), top)
