"""Experiment trackers (`training.report_to`): each event that is on the disk is told to them too.

They are Accelerate's, so a name means what it means everywhere else; the run's own record stays `events.jsonl`.
A tracker that fails (no network, nobody logged in) is switched off with a warning: hours of work are worth more than
their picture. What one prints goes to standard error, since standard output is the run's own (`--json`). What one
keeps on this machine lies in the run's `trackers/`, not where the command was given, unless its own environment
variable says where.
"""

import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from tunesmith.errors import MissingDependencyError
from tunesmith.run_folder import RunFolder
from tunesmith.settings import is_set
from tunesmith.spec import RunSpec
from tunesmith.training import ranks
from tunesmith.training.events import EvalEvent, Event, StepEvent

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

Observer = Callable[[Event], None]

log = logging.getLogger(__name__)

_MLFLOW_STORE = "MLFLOW_TRACKING_URI"  # `mlflow.set_tracking_uri` sets it, too


class Trackers:
    """An observer that passes each event on to `observer`, and its numbers to the trackers; a context manager."""

    def __init__(self, spec: RunSpec, run: RunFolder, observer: Observer | None = None) -> None:
        self._observer = observer
        self._spec = spec
        self._run = run
        self._afterwards = contextlib.ExitStack()
        with contextlib.redirect_stdout(sys.stderr):
            self._trackers = [_make(name, run) for name in spec.training.report_to] if ranks.is_main() else []

    def __enter__(self) -> Self:
        self._each(self._start)
        self._each(lambda tracker: tracker.store_init_configuration(_flat(self._spec)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._each(lambda tracker: tracker.finish())
        self._afterwards.close()

    def __call__(self, event: Event) -> None:
        """Tell the trackers and the observer of one event."""
        numbers = _numbers(event)
        if numbers:
            self._each(lambda tracker: tracker.log(numbers, step=getattr(event, "step", None)))
        if self._observer is not None and ranks.is_main():
            self._observer(event)

    def _start(self, tracker: "GeneralTracker") -> None:
        if tracker.name == "mlflow" and not is_set(_MLFLOW_STORE):
            import mlflow

            # Where it keeps numbers is a setting of the whole process; the next run has another folder.
            mlflow.set_tracking_uri(f"sqlite:///{quote(str(self._run.trackers.resolve() / 'mlflow.db'))}")
            self._afterwards.callback(mlflow.set_tracking_uri, None)
        tracker.start()

    def _each(self, tell: Callable[["GeneralTracker"], None]) -> None:
        for tracker in tuple(self._trackers):
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    tell(tracker)
            except Exception as error:  # noqa: BLE001  # whatever a service's client raises
                log.warning("training.report_to: %s failed and is switched off: %s", tracker.name, error)
                self._trackers.remove(tracker)


def must_have_trackers(names: Sequence[str]) -> None:
    """Raise MissingDependencyError when a tracker's package is not installed."""
    if not names:
        return
    from accelerate.tracking import get_available_trackers

    available = {str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()}
    missing = [name for name in names if name not in available]
    if missing:
        raise MissingDependencyError(f"training.report_to: {missing[0]} is not installed; pip install {missing[0]}")


def _make(name: str, run: RunFolder) -> "GeneralTracker":
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    options = {}
    if kind.requires_logging_directory:
        options["logging_dir"] = str(run.trackers)
    elif name == "wandb" and not is_set("WANDB_DIR"):
        options["dir"] = str(run.trackers)
    elif name == "mlflow" and not is_set(_MLFLOW_STORE):
        options["logging_dir"] = str(run.trackers.resolve() / "mlruns")
    run.trackers.mkdir(parents=True, exist_ok=True)
    made: GeneralTracker = kind(run.root.resolve().name, **options)
    return made


def _numbers(event: Event) -> dict[str, float]:
    match event:
        case StepEvent():
            return {
                "train/loss": event.loss,
                "train/learning_rate": event.learning_rate,
                "train/grad_norm": event.grad_norm,
                "train/epoch": event.epoch,
                "train/tokens_per_second": event.tokens / event.seconds if event.seconds else 0.0,
                **{f"train/{name}": value for name, value in event.measures.items()},
            }
        case EvalEvent():
            return {"eval/loss": event.loss, **{f"eval/{name}": value for name, value in event.measures.items()}}
    return {}


def _flat(spec: RunSpec) -> dict[str, bool | str | float | int]:
    """The spec as trackers take it: one level, `training.learning_rate` and the like."""
    flat: dict[str, bool | str | float | int] = {}
    for section, values in spec.model_dump().items():
        for key, value in values.items() if isinstance(values, dict) else [("", values)]:
            name = f"{section}.{key}" if key else section
            flat[name] = value if isinstance(value, bool | str | float | int) else str(value)
    return flat
