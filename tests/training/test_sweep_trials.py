"""What a sweep makes of its trials: given up, stopped, killed, diverged; the training itself is planted (Optuna 5)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith.errors import SpecError, TrainingError
from tunesmith.models.adapters import ParameterCount
from tunesmith.report.sweep_page import write_sweep_page
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec, dump_spec, parse_spec
from tunesmith.training import sweep as sweeping
from tunesmith.training.events import EvalEvent, Event, StartEvent
from tunesmith.training.run import RunResult
from tunesmith.training.sweep import UNPRUNED_TRIALS, SweepResult, sweep

pytest.importorskip("optuna")

STEPS = 40


class Killed(BaseException):
    """The process is gone: nothing after it runs."""


class PlantedTraining:
    """Stands in for `train`: trial number `n` ends at the loss `ends(n)`, having begun at three times as much."""

    def __init__(self, ends: Callable[[int], float]) -> None:
        self.ends = ends
        self.specs: list[RunSpec] = []
        self.steps: list[int] = []
        """To which step each trial came."""

    def __call__(self, spec: RunSpec, *, observer: Callable[[Event], None]) -> RunResult:
        number = len(self.specs)
        self.specs.append(spec)
        self.steps.append(0)
        run = RunFolder(Path(spec.output))
        run.root.mkdir(parents=True)
        run.spec.write_text(dump_spec(spec))
        end = self.ends(number)
        observer(StartEvent(0, STEPS))
        for step in range(0, STEPS + 1, 5):
            self.steps[number] = step
            observer(EvalEvent(step, end * (3 - 2 * step / STEPS)))
        return RunResult(run, "finished", ParameterCount(1, 10), STEPS, STEPS, end, 100, 1.0)


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    return parse_spec({"model": "embedded", "data": {"train": "rows.jsonl"}, "output": str(tmp_path / "run")})


def swept(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch, ends: Callable[[int], float], trials: int
) -> tuple[PlantedTraining, SweepResult, list[str]]:
    training = PlantedTraining(ends)
    monkeypatch.setattr(sweeping, "train", training)
    said: list[str] = []
    return training, sweep(spec, trials=trials, tell=said.append), said


def test_a_trial_that_is_clearly_worse_is_given_up_half_way_and_says_so(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def ends(number: int) -> float:
        return 5.0 if number == UNPRUNED_TRIALS else 1.0 + 0.1 * number

    training, result, said = swept(spec, monkeypatch, ends, UNPRUNED_TRIALS + 2)
    bad = result.trials[UNPRUNED_TRIALS]
    assert (bad.status, bad.trained_share) == ("pruned", 0.5)
    assert training.steps[UNPRUNED_TRIALS] == STEPS // 2
    assert "given up after 50% of its steps, worse than the median trial" in said[UNPRUNED_TRIALS]
    assert [trial.status for trial in result.trials[:UNPRUNED_TRIALS]] == ["complete"] * UNPRUNED_TRIALS
    assert result.best == result.trials[0]

    write_sweep_page(result, tmp_path / "sweep.html")
    page = (tmp_path / "sweep.html").read_text()
    assert "given up at 50%" in page
    assert page.count("<figure>") == len({"learning rate", "epochs", "rank"})


def test_the_first_trials_are_never_given_up(spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    _, result, _ = swept(spec, monkeypatch, lambda number: 1.0 + number, UNPRUNED_TRIALS)
    assert {trial.status for trial in result.trials} == {"complete"}


def test_a_sweep_that_was_killed_begins_its_trial_again_with_the_same_values(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(number: int) -> float:
        if number == 1:
            raise Killed
        return 1.0

    before = PlantedTraining(killed)
    monkeypatch.setattr(sweeping, "train", before)
    with pytest.raises(Killed):
        sweep(spec, trials=3)

    after, result, _ = swept(spec, monkeypatch, lambda number: 2.0, 3)
    assert len(before.specs) + len(after.specs) == 3 + 1
    assert after.specs[0].training.learning_rate == before.specs[1].training.learning_rate
    assert after.specs[0].adapter == before.specs[1].adapter
    assert [trial.loss for trial in result.trials] == [1.0, 2.0, 2.0]
    assert [run.name for run in Path(result.folder).glob("trial-*")] == [f"trial-{result.trials[0].number}"]


def test_a_trial_that_diverges_is_a_result_too(spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(number: int) -> float:
        if number == 1:
            raise TrainingError("the loss is not finite")
        return 1.0

    _, result, said = swept(spec, monkeypatch, ends, 3)
    assert [trial.status for trial in result.trials] == ["complete", "diverged", "complete"]
    assert said[1].endswith("diverged")


def test_rewards_that_are_all_zero_are_a_response_too(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    grpo = parse_spec(spec.model_dump() | {"objective": {"kind": "grpo", "reward": "rewards.py:zero"}})
    _, result, _ = swept(grpo, monkeypatch, lambda number: 0.0, 2)
    assert result.measure == "negated held-out reward"
    write_sweep_page(result, tmp_path / "sweep.html")


def test_rlhf_is_refused_because_its_trials_would_have_rewards_of_their_own(spec: RunSpec) -> None:
    rlhf = parse_spec(spec.model_dump() | {"objective": {"kind": "rlhf"}})
    with pytest.raises(SpecError, match="rewards of two models do not compare"):
        sweep(rlhf, trials=2)
