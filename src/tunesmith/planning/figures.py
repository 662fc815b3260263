"""Numbers as people write them: bytes, counts, dollars, times and settings."""


def size(count: float) -> str:
    """Bytes in the largest fitting decimal unit."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}" if count < 100 * scale else f"{count / scale:,.0f} {unit}"
    return f"{count:.0f} B"


def number(value: float | str) -> str:
    """A hyperparameter as people write it: 2e-4, 0.05, 2048, cosine."""
    if isinstance(value, str):
        return value
    if 0 < abs(value) < 0.001:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:g}"


def dollars(amount: float | None) -> str:
    """Dollars and cents; below a cent, so; a dash where it is not known."""
    if amount is None:
        return "-"
    return "<$0.01" if amount < 0.01 else f"${amount:,.2f}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, with two figures where it matters."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 90:
        return f"{seconds / 60:.1f} min"
    if seconds < 0.1:
        return "<0.1 s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def probability(p: float) -> str:
    """A p-value to three decimals: how far below that it lies depends on how many samples were drawn."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def calls(count: int) -> str:
    """A number of calls, in words that agree."""
    return f"{count:,} call{'' if count == 1 else 's'}"


def several(count: int, name: str) -> str:
    """So many of a thing that has a name: one A100 80GB, 4 × A100 80GB."""
    return f"one {name}" if count == 1 else f"{count} × {name}"  # noqa: RUF001


def compact(count: int) -> str:
    """A large count with three figures: 73.7K, 4.01M, 8.03B."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g}{unit}"
    return str(count)
