"""What a call costs: list prices per token of hosted models, and a GPU's time for one's own.

A GPU reads a prompt at the speed of its matrix products and writes a reply at that of its memory, which batching hides
only in part; the two efficiencies below say so and are good to a factor of about two. A GPU that idles costs the same:
these are prices at full use.
"""

from pathlib import Path

from msgspec import Struct

from tunesmith.planning.cost import EFFICIENCY, CallPrice, load_call_prices
from tunesmith.planning.gpus import Gpu, known_gpus
from tunesmith.planning.shapes import ModelShape

WRITING_EFFICIENCY = 0.05
"""Share of a GPU's peak reached while writing with a few dozen replies at once: two FLOPs per weight read, times the
batch, against the hundreds per byte that the peak would need."""

SERVING_OVERHEAD = 1.3
"""Memory to serve, over that of the weights: the KV cache and the server."""


class TokenPrice(Struct, frozen=True):
    """Dollars per million tokens read and written, and where they come from."""

    input_per_million_tokens: float
    output_per_million_tokens: float
    basis: str

    def thousand_calls(self, prompt_tokens: float, reply_tokens: float) -> float:
        """Dollars for 1,000 calls of this size."""
        return (prompt_tokens * self.input_per_million_tokens + reply_tokens * self.output_per_million_tokens) / 1_000


def hosted_price(model: str, prices: Path | None = None) -> TokenPrice | None:
    """The list price of a hosted model by its name, dated snapshots included; None where the table has none."""
    wanted = model.lower()
    rows = [row for row in load_call_prices(prices) if wanted == row.model or wanted.startswith(f"{row.model}-2")]
    if wanted.startswith("ft:"):  # ft:MODEL-DATE:ORGANIZATION:…
        rows = [row for row in load_call_prices(prices) if _is_snapshot(wanted.split(":")[1], row)]
    return None if not rows else _of_row(rows[0])


def own_price(shape: ModelShape, gpu: Gpu | None = None) -> TokenPrice | None:
    """The price on a rented GPU at full use: `gpu`, or the cheapest whose price is known and that holds the model."""
    gpu = gpu or serving_gpu(shape)
    if gpu is None or gpu.usd_per_hour is None:
        return None
    # A forward pass is 2 FLOPs per parameter and token (https://arxiv.org/abs/2001.08361).
    dollars_per_flop = gpu.usd_per_hour / 3600 / (gpu.tflops * 1e12)
    per_million = 2 * shape.active_parameters * 1e6 * dollars_per_flop
    return TokenPrice(
        per_million / EFFICIENCY,
        per_million / WRITING_EFFICIENCY,
        f"{gpu.name} at ${gpu.usd_per_hour:.2f} an hour ({gpu.as_of}), fully used",
    )


def serving_gpu(shape: ModelShape) -> Gpu | None:
    """The cheapest GPU of known price that holds the model in 16 bits with room to serve."""
    needed = shape.parameters * 2 * SERVING_OVERHEAD
    holding = [(gpu.usd_per_hour, gpu) for gpu in known_gpus() if gpu.usd_per_hour and gpu.memory * 2**30 >= needed]
    return min(holding, key=lambda pair: pair[0])[1] if holding else None


def _is_snapshot(base: str, row: CallPrice) -> bool:
    name = row.model.removeprefix("ft:")
    return row.model != name and (base == name or base.startswith(f"{name}-2"))


def _of_row(row: CallPrice) -> TokenPrice:
    return TokenPrice(
        row.input_per_million_tokens, row.output_per_million_tokens, f"{row.provider}'s list price of {row.as_of}"
    )
