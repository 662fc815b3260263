"""What training would cost and how long it would take, from a dated price table and the arithmetic of FLOPs.

Hours are tokens × FLOPs per token ÷ (the GPU's peak × a stated efficiency): good to a factor of about two, which is
enough to choose between one dollar and a hundred. Prices go out of date; each row carries its date and source,
and a table of the user's own overrides it row by row.
"""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Struct

from tunesmith.errors import SpecError
from tunesmith.planning.figures import several
from tunesmith.planning.gpus import Gpu, find_gpu
from tunesmith.planning.shapes import ModelShape
from tunesmith.planning.workload import Method

EFFICIENCY = 0.35
"""Share of a GPU's peak that fine-tuning on short rows reaches; large pretraining runs report 0.4 to 0.5."""


OPENAI = "OpenAI"
"""The provider that counts tokens by a tokenizer of its own."""

SELF_HOSTED = "Self-hosted"
"""The provider whose training costs a GPU's time and nothing else."""


Dollars: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]


class Price(Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the table; None where a provider does not charge that way."""

    provider: str
    model: str
    as_of: str
    source: str
    train_per_million_tokens: Dollars | None = None
    train_per_gpu_hour: Dollars | None = None
    gpu: str | None = None
    parameters: float | None = None
    input_per_million_tokens: Dollars | None = None
    output_per_million_tokens: Dollars | None = None


class Cost(Struct, frozen=True):
    """Training on all epochs with one provider: dollars and hours, None where they cannot be known."""

    provider: str
    model: str
    training_usd: float | None
    hours: float | None
    input_per_million_tokens: float | None
    output_per_million_tokens: float | None
    as_of: str
    source: str


class CallPrice(Struct, frozen=True, forbid_unknown_fields=True):
    """What a hosted model's calls cost where nothing is trained."""

    provider: str
    model: str
    input_per_million_tokens: Dollars
    output_per_million_tokens: Dollars
    as_of: str
    source: str


class _Table(Struct, frozen=True, forbid_unknown_fields=True):
    price: tuple[Price, ...] = ()
    inference: tuple[CallPrice, ...] = ()


def load_prices(override: Path | None = None) -> tuple[Price, ...]:
    """The built-in table, with the rows of the TOML file `override` added or put in place.

    Raises SpecError naming the file and the key when it is not such a table.
    """
    rows = {(row.provider, row.model): row for table in _tables(override) for row in table.price}
    return tuple(rows.values())


def load_call_prices(override: Path | None = None) -> tuple[CallPrice, ...]:
    """The prices of calls, with those of the TOML file `override` put in place; see `load_prices`."""
    rows = {(row.provider, row.model): row for table in _tables(override) for row in table.inference}
    return tuple(rows.values())


def train_flops(shape: ModelShape, method: Method, tokens: int, length: float) -> float:
    """FLOPs to train on `tokens`: 6 per parameter and token, 4 where the base is frozen and needs no gradient.

    Attention adds 6 · layers · width · length per token under a causal mask, half of PaLM's appendix B
    (https://arxiv.org/abs/2204.02311).
    """
    per_parameter = 6 if method == "full" else 4
    return tokens * (per_parameter * shape.active_parameters + 6 * shape.layers * shape.query_width * length)


def gpu_hours(flops: float, gpu: Gpu) -> float:
    """Hours of one `gpu` at the stated efficiency."""
    return flops / (gpu.tflops * 1e12 * EFFICIENCY) / 3600


def costs(
    prices: tuple[Price, ...],
    shape: ModelShape,
    method: Method,
    gpu: Gpu,
    tokens: int,
    length: float,
    *,
    openai_tokens: int | None = None,
    gpus: int = 1,
) -> tuple[Cost, ...]:
    """What every row of the table makes of training on `tokens` in all (rows × epochs), self-hosted on `gpus` of `gpu`.

    Several take a part of the time and cost as much together: what they say to one another is not counted.
    `openai_tokens` are the same by OpenAI's tokenizer, where they are known.
    """
    hours = gpu_hours(train_flops(shape, method, tokens, length), gpu)
    return tuple(
        _cost(price, shape, gpu, openai_tokens or tokens if price.provider == OPENAI else tokens, hours, gpus)
        for price in prices
    )


def _cost(price: Price, shape: ModelShape, gpu: Gpu, tokens: int, hours: float, gpus: int) -> Cost:
    model, as_of, source = price.model, price.as_of, price.source
    taken: float | None = None
    if price.train_per_million_tokens is not None:
        dollars: float | None = price.train_per_million_tokens * tokens / 1e6
    elif price.train_per_gpu_hour is not None:
        # The provider's model may be another than ours: its hours follow from its own size and GPU.
        theirs = find_gpu(price.gpu) if price.gpu else gpu
        taken = hours * gpu.tflops / theirs.tflops * (price.parameters or shape.parameters) / shape.parameters
        dollars = price.train_per_gpu_hour * taken
    else:
        model, taken = f"{shape.name} on {several(gpus, gpu.name)}", hours / gpus
        dollars = None if gpu.usd_per_hour is None else gpu.usd_per_hour * hours
        as_of, source = gpu.as_of or as_of, source if gpu.as_of is None else "https://www.runpod.io/pricing"
    return Cost(
        provider=price.provider,
        model=model,
        training_usd=dollars,
        hours=taken,
        input_per_million_tokens=price.input_per_million_tokens,
        output_per_million_tokens=price.output_per_million_tokens,
        as_of=as_of,
        source=source,
    )


def _tables(override: Path | None) -> list[_Table]:
    built_in = _decode(files("tunesmith.planning").joinpath("prices.toml").read_bytes(), "prices.toml")
    if override is None:
        return [built_in]
    try:
        own = override.read_bytes()
    except OSError as error:
        raise SpecError(f"{override}: cannot read the price table: {error.strerror}") from error
    return [built_in, _decode(own, str(override))]


def _decode(table: bytes, name: str) -> _Table:
    try:
        decoded = msgspec.toml.decode(table, type=_Table)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{name}: not a price table: {error}") from error
    for row in decoded.price:
        if row.gpu is not None:
            find_gpu(row.gpu, given_by=f"{name}: gpu")
    return decoded
