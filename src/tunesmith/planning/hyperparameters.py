"""Starting hyperparameters from the data's size, the model's size and the method, each with its reason and range.

These are the field's starting points, not laws: a sweep beats them, and the ranges are those of `typical.py`.
Every rule is one small function, so it can be argued with where it stands.
"""

import math

from msgspec import Struct

from tunesmith.planning.figures import compact
from tunesmith.planning.typical import TYPICAL_RANGES
from tunesmith.planning.workload import Method

STEPS_PER_EPOCH = 25
"""Fewer optimizer steps than this in an epoch learn little: the batch shrinks before it comes to that."""

LENGTH_STEP = 64
"""Maximum lengths are rounded up to a multiple of this, which tensor cores like."""


class Hyperparameter(Struct, frozen=True):
    """One value with its typical range; `key` is its place in the run spec, None where the engine decides itself."""

    name: str
    key: str | None
    value: float | str
    low: float | None
    high: float | None
    reason: str


def derive(
    *, rows: int, longest: int, context: int | None, parameters: int, method: Method, micro_batch: int, gpus: int = 1
) -> tuple[Hyperparameter, ...]:
    """Every row of the field's table, and LoRA's rank and alpha where the method has them.

    `longest` is the 99th percentile of the rows' tokens, `micro_batch` how many rows fit in memory at once, on each
    of `gpus`.
    """
    batch = batch_size(rows)
    epochs = _epochs(rows)
    steps = math.ceil(rows / batch) * epochs
    values = [
        _learning_rate(parameters, method),
        _in_range(
            "Batch size", "training.batch_size", batch, f"{rows:,} rows give {math.ceil(rows / batch):,} steps an epoch"
        ),
        _in_range("Epochs", "training.epochs", epochs, f"{rows:,} rows; more data needs fewer epochs"),
        _warmup(steps),
        _weight_decay(rows, method),
        _max_length(longest, context),
        _accumulation(batch, micro_batch, gpus),
        Hyperparameter(
            "LR scheduler", "training.scheduler", "cosine", None, None, "cosine or linear; cosine is usually better"
        ),
    ]
    if method != "full":
        rank = lora_rank(rows)
        values.append(_in_range("LoRA rank", "adapter.r", rank, f"enough capacity for {rows:,} rows"))
        values.append(Hyperparameter("LoRA alpha", "adapter.alpha", 2 * rank, None, None, "twice the rank"))
    return tuple(values)


def batch_size(rows: int) -> int:
    """Rows per optimizer step: a power of two within the range that leaves enough steps in an epoch."""
    low, high, _ = TYPICAL_RANGES["training.batch_size"]
    wanted = max(1, rows // STEPS_PER_EPOCH)
    return int(min(max(2 ** int(math.log2(wanted)), low), high))


def max_length(longest: int, context: int | None) -> int:
    """Tokens a row may have: what `longest` needs, within the range and the model's context."""
    low, high, _ = TYPICAL_RANGES["training.max_length"]
    length = math.ceil(longest / LENGTH_STEP) * LENGTH_STEP
    return int(min(max(length, low), high, high if context is None else context))


def lora_rank(rows: int) -> int:
    """LoRA's rank: capacity in step with the data."""
    for limit, rank in ((200, 8), (5_000, 16), (50_000, 32)):
        if rows < limit:
            return rank
    return 64


def _learning_rate(parameters: int, method: Method) -> Hyperparameter:
    # 2e-4 suits LoRA at 7B; larger models take less, by the fourth root of their size. LoRA's best rate is about ten
    # times that of full fine-tuning (https://thinkingmachines.ai/blog/lora/).
    rate = 2e-4 * (7e9 / max(parameters, 1)) ** 0.25
    low, high, _ = TYPICAL_RANGES["training.learning_rate"]
    rate = min(max(rate, low * 10), high)
    why = f"lower for larger models; {compact(parameters)} parameters"
    if method == "full":
        rate, why = rate / 10, f"{why}, and full fine-tuning takes a tenth of LoRA's"
    return Hyperparameter("Learning rate", "training.learning_rate", float(f"{rate:.1g}"), low, high, why)


def _epochs(rows: int) -> int:
    for limit, epochs in ((200, 5), (500, 4), (2_000, 3), (20_000, 2)):
        if rows < limit:
            return epochs
    return 1


def _warmup(steps: int) -> Hyperparameter:
    share = 0.1 if steps < 200 else 0.05
    return _in_range(
        "Warmup",
        "training.warmup",
        share,
        f"{math.ceil(share * steps):,} of {steps:,} steps; a short run needs the larger share",
    )


def _weight_decay(rows: int, method: Method) -> Hyperparameter:
    if method == "full" and rows < 1_000:
        return _in_range("Weight decay", "training.weight_decay", 0.1, "all parameters learn from few rows")
    return _in_range(
        "Weight decay", "training.weight_decay", 0.01, "regularization; adapters and larger sets need little"
    )


def _max_length(longest: int, context: int | None) -> Hyperparameter:
    low, high, _ = TYPICAL_RANGES["training.max_length"]
    value = max_length(longest, context)
    why = f"99% of the rows have at most {longest:,} tokens"
    if value == context:
        why += f"; the model reads at most {context:,}"
    elif longest > value:
        why += "; longer rows are cut, raise it if their endings matter"
    return Hyperparameter("Max sequence length", "training.max_length", value, low, high, why)


def _accumulation(batch: int, micro_batch: int, gpus: int) -> Hyperparameter:
    steps = min(max(math.ceil(batch / gpus / max(micro_batch, 1)), 2), 16)
    each = "" if gpus == 1 else f" on each of {gpus} GPUs"
    return Hyperparameter(
        "Gradient accumulation",
        None,
        steps,
        2,
        16,
        f"{batch} rows in {steps} micro-batches{each}; the engine cuts them itself",
    )


def _in_range(name: str, key: str, value: float, reason: str) -> Hyperparameter:
    low, high, _ = TYPICAL_RANGES[key]
    return Hyperparameter(name, key, value, low, high, reason)
