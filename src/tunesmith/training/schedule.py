"""Learning-rate schedules as pure functions of the step, so a resumed run needs no scheduler state.

The formulas are transformers' `get_{cosine,linear,constant}_schedule_with_warmup`; a test holds them equal.
"""

import math
from typing import Literal

Scheduler = Literal["cosine", "linear", "constant"]


def learning_rate(step: int, *, total_steps: int, peak: float, warmup: float, scheduler: Scheduler) -> float:
    """The learning rate of optimizer step `step` (counted from 0).

    It rises linearly from 0 over the first `ceil(warmup * total_steps)` steps, then follows `scheduler` down to 0.
    """
    warmup_steps = math.ceil(warmup * total_steps)
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    match scheduler:
        case "cosine":
            return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
        case "linear":
            return peak * max(0.0, 1.0 - progress)
        case "constant":
            return peak
