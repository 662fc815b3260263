"""The field's usual values of a run spec, and what a spec has outside of them.

They are starting points, not laws: a value outside is legal, and told of with its reason. Plans suggest, sweeps try and
runs warn by these same ranges.
"""

from tunesmith.spec import ADAPTER_OPTIONS, RunSpec

TYPICAL_RANGES: dict[str, tuple[float, float, str]] = {
    "training.learning_rate": (1e-5, 5e-4, "lower for larger models"),
    "training.batch_size": (4, 32, "the engine accumulates micro-batches to reach it"),
    "training.epochs": (1, 5, "more data needs fewer epochs"),
    "training.warmup": (0.05, 0.10, "stabilizes early training"),
    "training.weight_decay": (0.01, 0.1, "regularization"),
    "training.max_length": (512, 4096, "match your data; truncation loses supervised tokens"),
    "adapter.r": (4, 64, "higher is more capacity and more memory"),
}
"""Low, high and the reason, per spec key."""

TYPICAL_SCHEDULERS = ("cosine", "linear")


def range_warnings(spec: RunSpec) -> tuple[str, ...]:
    """One sentence per value that is not typical; `train` records them as its run starts."""
    warnings = []
    for key, (low, high, reason) in TYPICAL_RANGES.items():
        section, field = key.split(".")
        value = getattr(getattr(spec, section), field)
        unused = section == "adapter" and field not in ADAPTER_OPTIONS[spec.adapter.kind]
        if field == "max_length" and value < low:
            continue  # harmless where no row is longer, and of rows that it cuts the run tells by itself
        if value is not None and not unused and not low <= value <= high:
            warnings.append(f"{key} is {value:g}, outside the typical {low:g} to {high:g} ({reason})")
    if spec.training.scheduler not in TYPICAL_SCHEDULERS:
        typical = " or ".join(TYPICAL_SCHEDULERS)
        found = f"training.scheduler is {spec.training.scheduler}"
        warnings.append(f"{found}, typical is {typical} (cosine is usually better)")
    return tuple(warnings)
