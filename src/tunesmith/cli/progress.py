"""Training's progress for people: a bar with loss (or reward), rate and time left, and a line per evaluation."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from tunesmith.cli.output import mark
from tunesmith.training.events import EndEvent, EvalEvent, Event, StartEvent, StepEvent, VerdictEvent

SMOOTHING = 0.9
"""Of the printed rate and loss or reward, as an exponential moving average over steps."""


READYING = "getting ready: rows, model, reference"
"""Until the run starts, which may take minutes: a reference thinks about every row of preferences."""


class TrainProgress:
    """A `TrainObserver` that draws on a console, or prints lines where there is no terminal; a context manager."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[going]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=out,
            transient=True,
            disable=not out.is_terminal,
        )
        self._task = self._progress.add_task("train", start=False, total=None, going=READYING)
        self._warned: set[str] = set()
        self._shown: float | None = None
        self._rate: float | None = None
        self._before: float | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event as it happens."""
        match event:
            case StartEvent():
                self._begin(event)
            case StepEvent():
                self._step(event)
            case EvalEvent():
                self._evaluated(event)
            case VerdictEvent():
                self._out.print(f"  {mark(event.status)} {escape(event.finding)}", soft_wrap=True)
            case EndEvent():
                self._progress.update(self._task, visible=False)

    def _begin(self, event: StartEvent) -> None:
        share = event.trainable_parameters / event.total_parameters
        self._shown = self._rate = self._before = None
        what = f"{event.objective}: " if event.objective else ""
        self._out.print(
            f"  {what}{event.train_rows:,} rows to train on, {event.eval_rows:,} held out; "
            f"{escape(event.model)} in {event.precision}\n"
            f"  trainable: {event.trainable_parameters:,} of {event.total_parameters:,} parameters ({share:.2%})"
        )
        for warning in event.warnings:
            if warning in self._warned:  # by the run before, of the same spec
                continue
            self._warned.add(warning)
            self._out.print(f"  {mark('warn')} {escape(warning)}", soft_wrap=True)
        if event.truncated_rows:
            self._out.print(
                f"  {mark('warn')} {event.truncated_rows:,} rows cut by max_length; "
                f"{event.supervised_tokens_lost:.1%} of the trained tokens lost"
            )
        if event.step:
            self._out.print(f"  resuming after step {event.step:,}")
        self._progress.start_task(self._task)
        going = "measuring the base first" if event.eval_rows and not event.step else ""
        self._progress.update(self._task, total=event.total_steps, completed=event.step, visible=True, going=going)

    def _evaluated(self, event: EvalEvent) -> None:
        reward = event.measures.get("reward")
        found = f"validation loss {event.loss:.4f}" if reward is None else f"held-out reward {reward:.4f}"
        accuracy = event.measures.get("accuracy", event.measures.get("rewards/accuracies"))
        if accuracy is not None and event.step:  # before the first step a policy prefers nothing to its reference
            found += f", {accuracy:.0%} of the judgements right"
        if event.step == 0:
            self._before = event.loss
            found += " (before training)"
        elif event.best:
            worse = self._before is not None and event.loss > self._before
            found += " (best so far, worse than before training)" if worse else " (best so far)"
        self._out.print(f"  step {event.step:>5}  {found}")

    def _step(self, event: StepEvent) -> None:
        reward = event.measures.get("reward")  # whose policy's loss says nothing
        name, value = ("loss", event.loss) if reward is None else ("reward", reward)
        self._shown = _smooth(self._shown, value)
        self._rate = _smooth(self._rate, event.tokens / max(event.seconds, 1e-9))
        going = f"{name} {self._shown:.3f}  {self._rate:,.0f} tokens/s"
        self._progress.update(self._task, completed=event.step, going=going)


def _smooth(average: float | None, value: float) -> float:
    return value if average is None else SMOOTHING * average + (1 - SMOOTHING) * value
