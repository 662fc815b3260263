"""A sweep: the same run at several learning rates, epochs and ranks, kept by validation loss.

Optuna chooses the values (TPE: where good ones were, more are tried) and gives up on trials whose validation loss is
worse than the median trial's at the same quarter of their steps. Its storage is a journal in the sweep's folder: a
sweep that was stopped goes on, and the trial under way begins again. Only the best trial's run is kept, the others
leave their numbers.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from tunesmith import storage
from tunesmith.errors import MissingDependencyError, SpecError, TrainingError
from tunesmith.planning.typical import TYPICAL_RANGES
from tunesmith.run_folder import RunFolder
from tunesmith.spec import ADAPTER_OPTIONS, GrpoSpec, PpoSpec, RlhfSpec, RunSpec, dump_spec
from tunesmith.training.events import EvalEvent, Event, StartEvent
from tunesmith.training.run import train

if TYPE_CHECKING:
    from optuna import Study, Trial

QUARTERS = 4
"""Of a trial's steps: where it is compared with the others."""

UNPRUNED_QUARTERS = 1
"""The first is too early to give up: the learning rate has hardly risen."""

PRUNED = "pruned"

UNPRUNED_TRIALS = 4
"""Run to their end before any is given up: a median of fewer says little."""


class TrialResult(Struct, frozen=True):
    """One trial: `loss` is the best validation loss it reached (None: none before it failed).

    `rank` is None where the adapter has none. A `pruned` trial was given up once `trained_share` of its steps were
    made, being worse than the median trial there; a `diverged` one could not be trained.
    """

    number: int
    learning_rate: float
    epochs: int
    rank: int | None
    status: str
    loss: float | None
    seconds: float
    trained_share: float = 1.0


class SweepResult(Struct, frozen=True):
    """All trials so far, in their order; `best` is the finished one of lowest loss, `run` its run folder.

    `page` is where the response is drawn; `measure` is what the losses are: the validation loss, or a held-out reward,
    negated. `spec` is the file with the best values, for a run at the swept spec's own output; `note` says where to
    look further.
    """

    folder: str
    page: str
    measure: str
    trials: tuple[TrialResult, ...]
    best: TrialResult | None
    run: str | None
    spec: str | None
    note: str | None
    interrupted: bool


def sweep(
    spec: RunSpec,
    *,
    trials: int,
    tell: Callable[[str], None] = lambda line: None,
    observer: Callable[[Event], None] = lambda event: None,
) -> SweepResult:
    """Try values for `spec` until there are `trials` trials; the folder `OUTPUT-sweep` keeps them, and goes on there.

    The first trial has the spec's own values. `tell` hears of each trial's end, `observer` of each run's events.
    Raises SpecError where there is nothing to choose by or the folder holds another sweep, MissingDependencyError
    without Optuna, and what `train` raises but for runs that diverge.
    """
    optuna = _optuna()
    _check(spec, trials)
    folder = Path(f"{spec.output.rstrip('/')}-sweep")
    storage.must_be_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    journal = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal")))
    study = optuna.create_study(
        study_name="sweep",
        storage=journal,
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS, n_warmup_steps=1 + UNPRUNED_QUARTERS),
    )
    _begin_or_go_on(study, spec, folder)
    # A sampler that drew the same numbers again after a stop would try the same values again.
    study.sampler = optuna.samplers.TPESampler(seed=spec.training.seed + len(study.trials), n_startup_trials=5)
    interrupted = False
    while len(_ended(study)) < trials and not interrupted:
        interrupted = not _try_one(study, study.ask(), spec, folder, tell, observer)
    result = _result(study, spec, folder, interrupted=interrupted)
    storage.write_bytes(folder / "sweep.json", msgspec.json.format(msgspec.json.encode(result), indent=2))
    return result


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingDependencyError("sweep needs Optuna: pip install 'tunesmith[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _check(spec: RunSpec, trials: int) -> None:
    if trials < 1:
        raise SpecError(f"--trials {trials}: at least 1")
    if isinstance(spec.objective, RlhfSpec):
        raise SpecError(
            "objective.kind rlhf: each trial would train a reward model of its own, and the rewards of two models do "
            "not compare; sweep the reward model (kind: reward), then the policy (kind: ppo) with it"
        )
    if spec.data.eval is None and spec.data.holdout == 0:
        raise SpecError("a sweep picks by validation loss: set data.holdout above 0, or give data.eval")


def _begin_or_go_on(study: "Study", spec: RunSpec, folder: Path) -> None:
    from optuna.trial import TrialState

    swept = dump_spec(spec)
    begun = study.user_attrs.get("spec")
    if begun is None:
        study.set_user_attr("spec", swept)
        study.enqueue_trial(_own_values(spec))
    elif begun != swept:
        raise SpecError(f"{folder}: holds the sweep of another spec; remove the folder, or choose another output")
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):  # stopped with its process
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _own_values(spec: RunSpec) -> dict[str, float | int]:
    """The spec's values, as far as the sweep may try them."""
    low, high, _ = TYPICAL_RANGES["training.learning_rate"]
    values: dict[str, float | int] = {"learning_rate": min(max(spec.training.learning_rate, low), high)}
    low, high, _ = TYPICAL_RANGES["training.epochs"]
    values["epochs"] = round(min(max(spec.training.planned_epochs, low), high))
    if _has_rank(spec):
        ranks = _ranks()
        values["rank"] = min(ranks, key=lambda rank: abs(rank - spec.adapter.r))
    return values


def _has_rank(spec: RunSpec) -> bool:
    return "r" in ADAPTER_OPTIONS[spec.adapter.kind]


def _ranks() -> list[int]:
    low, high, _ = TYPICAL_RANGES["adapter.r"]
    return [rank for rank in (2**power for power in range(10)) if low <= rank <= high]


def _suggest(trial: "Trial", spec: RunSpec) -> RunSpec:
    """The spec with the trial's values, which lie in the field's typical ranges; alpha keeps its ratio to the rank."""
    low, high, _ = TYPICAL_RANGES["training.learning_rate"]
    few, many, _ = TYPICAL_RANGES["training.epochs"]
    training = spec.training.model_copy(
        update={
            "learning_rate": float(f"{trial.suggest_float('learning_rate', low, high, log=True):.2g}"),
            "epochs": float(trial.suggest_int("epochs", int(few), int(many))),
            "steps": None,
        }
    )
    adapter = spec.adapter
    if _has_rank(spec):
        rank = int(trial.suggest_categorical("rank", _ranks()))
        adapter = adapter.model_copy(update={"r": rank, "alpha": adapter.alpha / adapter.r * rank})
    return spec.model_copy(update={"training": training, "adapter": adapter})


def _try_one(
    study: "Study",
    trial: "Trial",
    spec: RunSpec,
    folder: Path,
    tell: Callable[[str], None],
    observer: Callable[[Event], None],
) -> bool:
    """Train one trial; False when a person stopped it, and it is to begin again."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    tried = _suggest(trial, spec)
    run = folder / f"trial-{trial.number}"
    shutil.rmtree(run, ignore_errors=True)  # of the process before
    started = time.perf_counter()
    loss: float | None = None
    state = TrialState.FAIL
    try:
        result = train(tried.model_copy(update={"output": str(run)}), observer=_Pruning(trial, observer))
        if result.reason == "interrupted":
            study.tell(trial, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
            shutil.rmtree(run, ignore_errors=True)
            return False
        loss = result.best_loss
        state = TrialState.FAIL if loss is None else TrialState.COMPLETE
    except TrialPruned:
        state = TrialState.PRUNED
    except TrainingError as error:
        trial.set_user_attr("error", str(error))
    trial.set_user_attr("ended", "diverged" if state == TrialState.FAIL else state.name.lower())
    trial.set_user_attr("seconds", time.perf_counter() - started)
    study.tell(trial, loss if state == TrialState.COMPLETE else None, state=state)
    _keep_only_best(study, folder)
    tell(_line(_trial_result(study.trials[trial.number]), _measure(spec)))
    return True


@dataclass
class _Pruning:
    """Reports a run's validation losses to its trial, by quarters of its steps, and ends it where that looks bad."""

    trial: "Trial"
    observer: Callable[[Event], None]
    total_steps: int = 1
    best: float = float("inf")
    reported: int = 0

    def __call__(self, event: Event) -> None:
        self.observer(event)
        if isinstance(event, StartEvent):
            self.total_steps = event.total_steps
        if not isinstance(event, EvalEvent) or event.step == 0:
            return
        self.best = min(self.best, event.loss)
        quarter = QUARTERS * event.step // self.total_steps
        if self.reported < quarter < QUARTERS:
            self.trial.report(self.best, quarter)
            self.reported = quarter
            if self.trial.should_prune():
                from optuna import TrialPruned

                raise TrialPruned


def _ended(study: "Study") -> list[Any]:
    """Trials that came to an end of their own; those stopped by a person or with their process do not count."""
    return [trial for trial in study.get_trials(deepcopy=False) if "ended" in trial.user_attrs]


def _best(study: "Study") -> Any:
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return min(done, key=lambda trial: trial.value or 0.0) if done else None


def _keep_only_best(study: "Study", folder: Path) -> None:
    best = _best(study)
    for run in folder.glob("trial-*"):
        if best is None or run.name != f"trial-{best.number}":
            shutil.rmtree(run, ignore_errors=True)


def _at_the_edge(learning_rate: float) -> str | None:
    low, high, _ = TYPICAL_RANGES["training.learning_rate"]
    for end, bound, nearly in (("higher", high, learning_rate > high / 1.2), ("lower", low, learning_rate < low * 1.2)):
        if nearly:
            return f"the best learning rate is at the end of the typical range ({bound:g}): a {end} one may be better"
    return None


def _trial_result(trial: Any) -> TrialResult:
    reached = trial.value if trial.value is not None else min(trial.intermediate_values.values(), default=None)
    return TrialResult(
        number=trial.number,
        learning_rate=float(f"{trial.params['learning_rate']:.2g}"),
        epochs=trial.params["epochs"],
        rank=trial.params.get("rank"),
        status=trial.user_attrs["ended"],
        loss=reached,
        seconds=trial.user_attrs["seconds"],
        trained_share=trial.last_step / QUARTERS if trial.user_attrs["ended"] == PRUNED else 1.0,
    )


def _measure(spec: RunSpec) -> str:
    return "negated held-out reward" if isinstance(spec.objective, GrpoSpec | PpoSpec) else "validation loss"


def _line(trial: TrialResult, measure: str) -> str:
    rank = "" if trial.rank is None else f", rank {trial.rank}"
    loss = "" if trial.loss is None else f", {measure} {trial.loss:.4f}"
    epochs = "1 epoch" if trial.epochs == 1 else f"{trial.epochs} epochs"
    ended = trial.status
    if ended == PRUNED:
        ended = f"given up after {trial.trained_share:.0%} of its steps, worse than the median trial"
    return f"trial {trial.number}: learning rate {trial.learning_rate:.2g}, {epochs}{rank}: {ended}{loss}"


def _result(study: "Study", spec: RunSpec, folder: Path, *, interrupted: bool) -> SweepResult:
    best = _best(study)
    chosen: Path | None = None
    if best is not None:
        run = RunFolder(folder / f"trial-{best.number}")
        chosen = folder / "best.yaml"
        storage.write_text(chosen, dump_spec(run.load_spec().model_copy(update={"output": spec.output})))
    return SweepResult(
        folder=str(folder),
        page=str(folder / "sweep.html"),
        measure=_measure(spec),
        trials=tuple(_trial_result(trial) for trial in _ended(study)),
        best=None if best is None else _trial_result(best),
        run=None if best is None else str(folder / f"trial-{best.number}"),
        spec=None if chosen is None else str(chosen),
        note=None if best is None else _at_the_edge(best.params["learning_rate"]),
        interrupted=interrupted,
    )
