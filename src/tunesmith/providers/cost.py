"""What a hosted job will cost by the dated price table, before anything is uploaded."""

import re

from tunesmith.errors import TunesmithError
from tunesmith.planning.cost import Cost, Price, costs, load_prices
from tunesmith.planning.gpus import find_gpu
from tunesmith.planning.shapes import load_shape
from tunesmith.planning.workload import Method
from tunesmith.spec import RunSpec

_TABLE_NAMES = {"openai": "openai", "together": "together.ai"}
_GPU = "A100 80GB"
"""Of the hours that a price by the hour is reckoned in, where the row names no other."""


def price_of(spec: RunSpec, provider: str, tokens: int) -> Cost | None:
    """The table's price for training on `tokens` in all (rows × epochs); None where it has no row for the model."""
    wanted = _TABLE_NAMES.get(provider)
    rows = [price for price in load_prices() if price.provider.casefold() == wanted]
    by_token = next((price for price in rows if price.train_per_million_tokens and _same(price, spec.model)), None)
    if by_token is not None and by_token.train_per_million_tokens is not None:
        return Cost(
            provider=by_token.provider,
            model=by_token.model,
            training_usd=by_token.train_per_million_tokens * tokens / 1e6,
            hours=None,
            input_per_million_tokens=by_token.input_per_million_tokens,
            output_per_million_tokens=by_token.output_per_million_tokens,
            as_of=by_token.as_of,
            source=by_token.source,
        )
    by_hour = tuple(price for price in rows if price.train_per_gpu_hour and not price.train_per_million_tokens)
    try:
        shape = load_shape(spec.model)
    except TunesmithError:  # a model whose shape is not known here
        return None
    method: Method = "full" if spec.adapter.kind == "full" else "lora"
    found = costs(by_hour, shape, method, find_gpu(_GPU), tokens, length=spec.training.max_length / 2)
    return next(iter(found), None)


def _same(price: Price, model: str) -> bool:
    """Whether the row is for `model`: `GPT-4o-mini FT` is for `gpt-4o-mini-2024-07-18`."""
    return _key(price.model.removesuffix(" FT")) == _key(model)


def _key(model: str) -> str:
    return re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model.casefold().replace(" ", "-"))
