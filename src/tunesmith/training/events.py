"""The run's event log: one JSON object a line, appended and synced, read back by resume, reports and verdicts."""

from pathlib import Path

import msgspec
from msgspec import Struct

from tunesmith.errors import RunError


class StartEvent(Struct, frozen=True, tag_field="event", tag="start"):
    """Training began (or resumed, when `step` is not 0)."""

    step: int
    total_steps: int
    train_rows: int
    eval_rows: int
    trainable_parameters: int
    total_parameters: int
    truncated_rows: int
    supervised_tokens_lost: float
    model: str
    precision: str
    time: float


class StepEvent(Struct, frozen=True, tag_field="event", tag="step"):
    """One step. `loss` is the objective's mean (sft: over supervised tokens, in nats).

    `measures` are what else the objective sees, by TRL's names: `rewards/margins`, `reward`, `kl`, … Hosted providers
    tell little more than the loss; what they do not tell is 0.
    """

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    supervised_tokens: int
    seconds: float
    epoch: float
    measures: dict[str, float] = {}


class EvalEvent(Struct, frozen=True, tag_field="event", tag="eval"):
    """Validation after `step`: the objective's mean loss on the held-out rows, lower is better, and its measures.

    For sft the loss is in nats per supervised token; for grpo and ppo it is the negated mean reward.
    """

    step: int
    loss: float
    supervised_tokens: int
    seconds: float
    best: bool
    measures: dict[str, float] = {}


class VerdictEvent(Struct, frozen=True, tag_field="event", tag="verdict"):
    """A judgement made while training (see `tunesmith.training.signals`).

    `status` is `good`, `note`, `warn` or `bad`; `signal` is the known sign of trouble that it matches.
    """

    step: int
    name: str
    status: str
    finding: str
    mend: str
    evidence: str = ""
    signal: str = ""


class EndEvent(Struct, frozen=True, tag_field="event", tag="end"):
    """Training ended: `reason` is `finished`, `early_stopping` or `interrupted`; at a provider, also `failed`."""

    step: int
    reason: str
    best_step: int | None
    seconds: float


class MessageEvent(Struct, frozen=True, tag_field="event", tag="message"):
    """What a hosted provider said about its job, at the Unix time `time`; `level` is `info`, `warn` or `error`."""

    time: float
    level: str
    message: str


Event = StartEvent | StepEvent | EvalEvent | VerdictEvent | EndEvent | MessageEvent


def read_events(path: Path) -> list[Event]:
    """The events in a run's `events.jsonl`, oldest first; none when there is no such file.

    A last line that a crash cut short is left out: resuming writes it anew. Raises RunError for any other line that
    is not an event.
    """
    if not path.is_file():
        return []
    decoder = msgspec.json.Decoder(Event)
    lines = path.read_bytes().split(b"\n")
    events: list[Event] = []
    for number, line in enumerate(lines, start=1):
        try:
            events += [decoder.decode(line)] if line else []
        except msgspec.DecodeError as error:
            if number == len(lines):
                break
            raise RunError(f"{path}:{number}: not a run event ({error}); remove the line") from error
    return events
