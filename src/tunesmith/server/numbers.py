"""Whole numbers that requests write as text."""

MOST_DIGITS = 15
"""Any such number is exact in JSON, and Python refuses to read one of thousands of digits."""


def whole_number(text: str) -> int | None:
    """The number that `text` writes in decimal digits; None where it is none, or one that nothing here can have."""
    return int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else None
