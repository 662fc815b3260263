"""The run's event log: one JSON object a line, appended and synced, read back by resume, reports and verdicts.

Other tools write it too, so only what an event cannot do without is required of it (a step and its loss), kinds that
are not known here are passed over, and a loss may be NaN or null, as it is when a run diverges.
"""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tunesmith.errors import RunError


class StartEvent(Struct, frozen=True, tag_field="event", tag="start"):
    """Training began (or resumed, when `step` is not 0); `warnings` are the spec's values that are not usual.

    `objective` is its kind: the two runs of an `rlhf` spec have their own. `kernels`, on a CPU: whether those between
    matrix products are "compiled" or torch's ("torch"); they round differently.
    """

    step: int = 0
    total_steps: int = 0
    train_rows: int = 0
    eval_rows: int = 0
    trainable_parameters: int = 0
    total_parameters: int = 0
    truncated_rows: int = 0
    supervised_tokens_lost: float = 0.0
    model: str = ""
    precision: str = ""
    time: float = 0.0
    warnings: tuple[str, ...] = ()
    objective: str = ""
    kernels: str = ""


class StepEvent(Struct, frozen=True, tag_field="event", tag="step"):
    """One step. `loss` is the objective's mean (sft: over supervised tokens, in nats).

    `measures` are what else the objective sees, by TRL's names: `rewards/margins`, `reward`, `kl`, … Hosted providers
    tell little more than the loss; what they do not tell is 0.
    """

    step: int
    loss: float
    learning_rate: float = 0.0
    grad_norm: float = 0.0
    tokens: int = 0
    supervised_tokens: int = 0
    seconds: float = 0.0
    epoch: float = 0.0
    measures: dict[str, float] = {}


class EvalEvent(Struct, frozen=True, tag_field="event", tag="eval"):
    """Validation after `step`: the objective's mean loss on the held-out rows, lower is better, and its measures.

    For sft the loss is in nats per supervised token; for grpo and ppo it is the negated mean reward.
    """

    step: int
    loss: float
    supervised_tokens: int = 0
    seconds: float = 0.0
    best: bool = False
    measures: dict[str, float] = {}


class VerdictEvent(Struct, frozen=True, tag_field="event", tag="verdict"):
    """A judgement made while training (see `tunesmith.training.signals`).

    `status` is `good`, `note`, `warn` or `bad`; `signal` is the known sign of trouble that it matches.
    """

    step: int
    name: str
    status: str
    finding: str
    mend: str = ""
    evidence: str = ""
    signal: str = ""

    @property
    def is_alarm(self) -> bool:
        """Whether something is wrong: neither that all is well nor that it cannot be told."""
        return self.status in ("warn", "bad")


class EndEvent(Struct, frozen=True, tag_field="event", tag="end"):
    """Training ended: `reason` is `finished`, `early_stopping` or `interrupted`; at a provider, also `failed`."""

    step: int
    reason: str = "finished"
    best_step: int | None = None
    seconds: float = 0.0


class MessageEvent(Struct, frozen=True, tag_field="event", tag="message"):
    """What a hosted provider said about its job, at the Unix time `time`; `level` is `info`, `warn` or `error`."""

    time: float
    level: str
    message: str


Event = StartEvent | StepEvent | EvalEvent | VerdictEvent | EndEvent | MessageEvent

_DECODER = msgspec.json.Decoder(Event)

_KINDS = ("start", "step", "eval", "verdict", "end", "message")


def read_events(path: Path) -> list[Event]:
    """The events in a run's `events.jsonl`, oldest first; none when there is no such file.

    A last line that a crash cut short is left out: resuming writes it anew. Raises RunError for any other line that
    is not an event.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    events: list[Event] = []
    for number, line in enumerate(lines, start=1):
        try:
            events += parse_event(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise RunError(f"{path}:{number}: not a run event ({error}); remove the line") from error
    return events


def parse_event(line: bytes) -> list[Event]:
    """The event of one line; none for an empty line or a kind that is not known here. Raises ValueError."""
    if not line.strip():
        return []
    try:
        return [_DECODER.decode(line)]
    except msgspec.DecodeError as error:
        try:
            return _foreign(line)
        except ValueError:
            raise error from None


def _foreign(line: bytes) -> list[Event]:
    """The event of a line that strict JSON of ours is not: one of an unknown kind is none; raises ValueError."""
    found: Any = json.loads(line)  # which takes NaN and Infinity, as other writers write them
    if isinstance(found, dict) and isinstance(found.get("event"), str) and found["event"] not in _KINDS:
        return []
    if isinstance(found, dict) and found.get("loss", 0.0) is None:
        found["loss"] = math.nan
    return [msgspec.convert(found, Event)]
