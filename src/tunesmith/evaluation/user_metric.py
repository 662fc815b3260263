"""A metric of the person's own: any function of reply and reference, named by `module:function` or an entry point.

    def short_enough(reply: str, reference: str) -> float:
        return float(len(reply.split()) <= 20)

`short_enough.better = "lower"` turns its direction. A package offers metrics under the entry point group
`tunesmith.metrics`.
"""

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

from tunesmith.errors import SpecError
from tunesmith.evaluation.comparison import Better

GROUP = "tunesmith.metrics"


@dataclass(frozen=True)
class UserMetric:
    """The function, the name it is shown by, and whether higher or lower is better."""

    name: str
    score: Callable[[str, str], float]
    better: Better


def load_metric(name: str) -> UserMetric:
    """The metric `name`: `module:function` (also of the working directory) or an entry point. Raises SpecError."""
    module, separator, function = name.partition(":")
    found = _import(name, module, function) if separator else _entry_point(name)
    if not callable(found):
        raise SpecError(f"--metric {name}: this is no function; give one that takes a reply and a reference")
    better: Any = getattr(found, "better", "higher")
    if better not in ("higher", "lower"):
        raise SpecError(f"--metric {name}: its `better` is {better!r}; set it to 'higher' or 'lower'")
    shown = cast(Better, better)
    return UserMetric((function or name).replace("_", " "), _checked(name, found), shown)


def _import(name: str, module: str, function: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise SpecError(f"--metric {name}: cannot import {module}: {error}") from error
    except AttributeError as error:
        raise SpecError(f"--metric {name}: {module} has no {function}") from error


def _entry_point(name: str) -> Any:
    offered = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in offered:
        known = f"installed ones: {', '.join(sorted(offered))}" if offered else "none is installed"
        raise SpecError(f"--metric {name}: no such entry point of {GROUP} ({known}); or give module:function")
    return offered[name].load()


def _checked(name: str, function: Callable[[str, str], Any]) -> Callable[[str, str], float]:
    def score(reply: str, reference: str) -> float:
        try:
            value = float(function(reply, reference))
        except Exception as error:  # whatever a stranger's function raises, the person needs its name and the cause
            raise SpecError(f"--metric {name}: {type(error).__name__}: {error} (reply {reply[:60]!r})") from error
        if not math.isfinite(value):
            raise SpecError(f"--metric {name}: gave {value} for the reply {reply[:60]!r}; return a finite number")
        return value

    return score
