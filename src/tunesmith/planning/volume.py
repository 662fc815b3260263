"""What answering many calls costs, and from how many on the tuned model pays for its training.

Three ways to answer the same calls are set side by side: the tuned model, the untuned one with examples in every
prompt, and a larger model with a plain prompt. Prices are dated list prices and, for one's own GPU, arithmetic at full
use (`inference.py`); a GPU that idles costs the same, which hits small volumes.
"""

import math
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from tunesmith.errors import SpecError, TunesmithError
from tunesmith.planning.data_facts import DataFacts
from tunesmith.planning.gpus import Gpu
from tunesmith.planning.inference import TokenPrice, hosted_price, own_price
from tunesmith.planning.shapes import ModelShape, load_shape

EXAMPLES = 4
"""Of the data, in the prompt of a model that is not tuned: few-shot prompting usually takes three to five."""

LARGER_MODEL = "gpt-4o"
"""What people would ask instead, unless they say otherwise."""


class Way(Struct, frozen=True):
    """One way to answer: dollars once, and for 1,000 calls of `prompt_tokens` and `reply_tokens`.

    `break_even_calls` is the number of calls from which on the tuned model is cheaper (0: at once; None: never, or it
    is the tuned model itself); `month_usd` the cost of a month's calls, where their number was given.
    """

    name: str
    basis: str
    once_usd: float
    thousand_calls_usd: float
    prompt_tokens: int
    reply_tokens: int
    break_even_calls: int | None = None
    month_usd: float | None = None


class Volume(Struct, frozen=True):
    """The ways, the tuned model first; `monthly_calls` where it was given."""

    tuned: Way
    others: tuple[Way, ...]
    monthly_calls: int | None

    def cost(self, way: Way, calls: float) -> float:
        """Dollars after so many calls."""
        return way.once_usd + way.thousand_calls_usd * calls / 1_000


def plan_volume(
    shape: ModelShape,
    data: DataFacts,
    gpu: Gpu | None,
    training_usd: float | None,
    *,
    larger: str | None = None,
    monthly_calls: int | None = None,
    prices: Path | None = None,
) -> Volume | None:
    """The ways to answer calls like the data's rows; None where no GPU of known price holds the model.

    Raises SpecError when `larger`, a name in the price table or a model, has no price.
    """
    if monthly_calls is not None and monthly_calls < 1:
        raise SpecError(f"--monthly-calls {monthly_calls}: a number of calls above 0")
    own = own_price(shape, gpu if gpu is not None and gpu.usd_per_hour else None)
    if own is None or training_usd is None:
        return None
    reply = max(1, round(data.supervised_tokens / data.rows))
    prompt = max(1, round((data.tokens - data.supervised_tokens) / data.rows))
    longer = prompt + EXAMPLES * data.median
    tuned = _way(f"{shape.name}, tuned", own, prompt, reply, monthly_calls, once=training_usd)
    others = [_way(f"{shape.name} with {EXAMPLES} examples", own, longer, reply, monthly_calls)]
    name = larger or LARGER_MODEL
    price = _price(name, prices)
    if price is not None:
        others.append(_way(name, price, prompt, reply, monthly_calls))
    elif larger is not None:
        raise SpecError(
            f"--larger {larger}: no price known; name a hosted model of the price table (add it with --prices), or an "
            "open model that fits on one priced GPU"
        )
    return Volume(tuned, tuple(_with_break_even(way, tuned) for way in others), monthly_calls)


def _way(name: str, price: TokenPrice, prompt: int, reply: int, monthly_calls: int | None, *, once: float = 0.0) -> Way:
    thousand = price.thousand_calls(prompt, reply)
    month = None if monthly_calls is None else thousand * monthly_calls / 1_000
    return Way(name, price.basis, once, thousand, prompt, reply, month_usd=month)


def _with_break_even(way: Way, tuned: Way) -> Way:
    saved = way.thousand_calls_usd - tuned.thousand_calls_usd
    if saved <= 0:
        return way
    return replace(way, break_even_calls=math.ceil((tuned.once_usd - way.once_usd) / saved * 1_000))


def _price(model: str, prices: Path | None) -> TokenPrice | None:
    hosted = hosted_price(model, prices)
    if hosted is not None:
        return hosted
    try:
        return own_price(load_shape(model))
    except TunesmithError:  # neither in the price table nor a model that can be found
        return None
