"""What a rule is: one form of personal data, and the cheap test for whether it could be near."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from re import Pattern


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One recognizable form: group `value` of `pattern` (or all of it) is the data if `valid` says so.

    The cheap test: one of `words` (lower case), `shapes` (digits as 0, capitals as A, what separates groups as a space)
    or `signs`, and at least so many `digits` must be near. A rule of `NUMBERS` has one of the three.
    `shorten`: the pattern may run into the words or numbers that follow; cut at separators until it is valid.
    `tail`: what belongs to the data where it follows, an extension.
    `personal`: so certain a form that it counts even after a word such as "order"; `is_id`: and after "ID".
    """

    kind: str
    pattern: Pattern[str]
    valid: Callable[[str], bool] | None = None
    words: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()
    shapes: tuple[bytes, ...] = ()
    digits: int = 0
    shorten: bool = False
    tail: Pattern[str] | None = None
    personal: bool = True
    is_id: bool = False
    group: str | int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", "value" if "value" in self.pattern.groupindex else 0)


def after(words: tuple[str, ...], value: str) -> Pattern[str]:
    """`value` soon after one of `words` on the same line, without other digits between; case counts in the value."""
    alternatives = "|".join(map(re.escape, words))
    return re.compile(rf"\b(?i:{alternatives})[^\d\n]{{0,24}}?(?<![\w+])(?P<value>{value})(?!\w)")
