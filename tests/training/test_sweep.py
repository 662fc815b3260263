"""Sweeps of the embedded model, of a few seconds each (Optuna 5)."""

from pathlib import Path

import pytest

import tunesmith
from tunesmith.errors import SpecError
from tunesmith.spec import RunSpec, load_spec, parse_spec

pytest.importorskip("optuna")


@pytest.fixture
def spec(tickets: Path, tmp_path: Path) -> RunSpec:
    return parse_spec(
        {
            "model": "embedded",
            "data": {"train": str(tickets)},
            "adapter": {"r": 8, "alpha": 16},
            "training": {"epochs": 1, "learning_rate": 3e-4},
            "output": str(tmp_path / "run"),
        }
    )


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_and_keeps_the_run_of_lowest_loss(spec: RunSpec) -> None:
    first = tunesmith.sweep(spec, trials=1, tell=lambda line: None)
    assert (first.trials[0].learning_rate, first.trials[0].epochs, first.trials[0].rank) == (3e-4, 1, 8)  # its own

    result = tunesmith.sweep(spec, trials=3, tell=lambda line: None)
    assert result.trials[0] == first.trials[0]
    assert [trial.number for trial in result.trials] == [0, 1, 2]
    assert len({trial.learning_rate for trial in result.trials}) == 3

    best = min((trial for trial in result.trials if trial.status == "complete"), key=lambda trial: trial.loss or 0.0)
    assert result.best == best
    runs = [run.name for run in Path(result.folder).glob("trial-*")]
    assert runs == [f"trial-{best.number}"]
    assert result.run is not None and (Path(result.run) / "report.html").is_file()

    chosen = load_spec(Path(result.spec or ""))
    assert chosen.output == spec.output
    assert float(f"{chosen.training.learning_rate:.2g}") == best.learning_rate
    assert (chosen.training.epochs, chosen.adapter.r, chosen.adapter.alpha) == (best.epochs, best.rank, 2 * best.rank)

    other = spec.model_copy(update={"training": spec.training.model_copy(update={"batch_size": 4})})
    with pytest.raises(SpecError, match="holds the sweep of another spec"):
        tunesmith.sweep(other, trials=3)


def test_a_sweep_without_validation_rows_is_refused(spec: RunSpec) -> None:
    blind = spec.model_copy(update={"data": spec.data.model_copy(update={"holdout": 0.0})})
    with pytest.raises(SpecError, match=r"set data\.holdout above 0, or give data\.eval"):
        tunesmith.sweep(blind)
