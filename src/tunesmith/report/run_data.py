"""What a run folder holds, read once for the report; a part that is not there is None, a broken one is an error."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from tunesmith.advice.result import Advice
from tunesmith.errors import RunError
from tunesmith.evaluation.result import Evaluation
from tunesmith.planning.plan import Plan
from tunesmith.quality.report import CheckReport
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec
from tunesmith.training.events import EndEvent, EvalEvent, Event, StartEvent, StepEvent, VerdictEvent, read_events
from tunesmith.training.signals import judge_events

_T = TypeVar("_T")


@dataclass(frozen=True)
class RunData:
    """A run as far as it went; `steps` and `evals` are in order, each step once (the last time, if resumed).

    `verdicts` are those recorded while it trained, and what its curves show beside them; `sound` is what they show
    where that is no trouble. `reward_model` is the run that an rlhf run trained first.
    """

    folder: RunFolder
    spec: RunSpec
    check: CheckReport | None
    plan: Plan | None
    advice: Advice | None
    evaluation: Evaluation | None
    start: StartEvent | None
    steps: tuple[StepEvent, ...]
    evals: tuple[EvalEvent, ...]
    verdicts: tuple[VerdictEvent, ...]
    sound: tuple[VerdictEvent, ...]
    end: EndEvent | None
    reward_model: "RunData | None"


def read_run(folder: RunFolder) -> RunData:
    """Read the run. Raises RunError when it is no run folder or a file in it is broken."""
    spec = folder.load_spec()
    start: StartEvent | None = None
    end: EndEvent | None = None
    steps: dict[int, StepEvent] = {}
    evals: dict[int, EvalEvent] = {}
    events = read_events(folder.events)
    for event in events:
        match event:
            case StartEvent():
                start, end = event, None
            case StepEvent():
                steps[event.step] = event
            case EvalEvent():
                evals[event.step] = event
            case EndEvent():
                end = event
    return RunData(
        folder=folder,
        spec=spec,
        check=_read(folder.check, CheckReport),
        plan=_read(folder.plan, Plan),
        advice=_read(folder.advice, Advice),
        evaluation=_read(folder.evaluation, Evaluation),
        start=start,
        steps=tuple(steps[step] for step in sorted(steps)),
        evals=tuple(evals[step] for step in sorted(evals)),
        verdicts=curve_verdicts(events),
        sound=tuple(verdict for verdict in judge_events(events) if not verdict.is_alarm),
        end=end,
        reward_model=read_run(folder.reward_model) if folder.reward_model.spec.is_file() else None,
    )


def curve_verdicts(events: Sequence[Event]) -> tuple[VerdictEvent, ...]:
    """The verdicts that were recorded while it trained, and what the curves show beside them.

    A log that another tool wrote holds none, and some can only be reached at the end.
    """
    recorded = {(event.step, event.name): event for event in events if isinstance(event, VerdictEvent)}
    raised = {name for _, name in recorded}
    late = [v for v in judge_events(events) if events and v.is_alarm and v.name not in raised]
    return (*recorded.values(), *late)


def _read(path: Path, kind: type[_T]) -> _T | None:
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise RunError(f"{path}: cannot be read ({error}); remove it and run the verb that writes it again") from error
