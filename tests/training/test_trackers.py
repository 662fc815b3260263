"""Trackers are told what the event log holds, and never cost a run."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from tunesmith.errors import MissingDependencyError, SpecError
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec, parse_spec
from tunesmith.training.events import EvalEvent, StepEvent
from tunesmith.training.trackers import Trackers, must_have_trackers


def spec(report_to: Any) -> RunSpec:
    return parse_spec(
        {"model": "embedded", "data": {"train": "x.jsonl"}, "training": {"report_to": report_to}, "output": "out"}
    )


STEP = StepEvent(1, 0.75, 2e-4, 1.5, 300, 40, 0.5, 0.1)


def test_one_tracker_may_be_named_without_a_list() -> None:
    assert spec("tensorboard").training.report_to == ["tensorboard"]
    with pytest.raises(SpecError, match=r"training\.report_to: found 'paper'; expected 'tensorboard', 'wandb', "):
        spec("paper")


def test_tensorboard_gets_every_number_at_its_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, seen = RunFolder(tmp_path / "tickets"), []
    with Trackers(spec("tensorboard"), run, seen.append) as told:
        told(STEP)
        told(EvalEvent(1, 0.5, 40, 0.1, True))
    assert [type(event) for event in seen] == [StepEvent, EvalEvent]
    written = EventAccumulator(str(run.root / "trackers" / "tickets")).Reload()
    values = {tag: [(point.step, point.value) for point in written.Scalars(tag)] for tag in written.Tags()["scalars"]}
    assert values["train/loss"] == [(1, 0.75)]
    assert values["train/tokens_per_second"] == [(1, 600.0)]
    assert values["eval/loss"] == [(1, 0.5)]


def test_a_tracker_that_fails_is_switched_off_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    seen: list[Any] = []
    with Trackers(spec("tensorboard"), RunFolder(tmp_path), seen.append) as told:

        def fail(values: Any, step: int) -> None:
            raise ConnectionError("no network")

        told._trackers[0].log = fail
        told(STEP)
        told(STEP)
    assert len(seen) == 2
    assert [record.message for record in caplog.records].count(
        "training.report_to: tensorboard failed and is switched off: no network"
    ) == 1


def test_what_a_tracker_prints_is_not_on_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    with Trackers(spec("tensorboard"), RunFolder(tmp_path)) as told:
        told._trackers[0].log = lambda values, step: print("* Trackio project initialized")
        told(STEP)
    printed = capsys.readouterr()
    assert "Trackio" in printed.err
    assert printed.out == ""


def test_a_tracker_that_cannot_start_is_switched_off_and_the_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class LoggedOut:
        """What Accelerate's tracker of a service is when nobody is logged in."""

        name, requires_logging_directory = "wandb", False

        def __init__(self, title: str, **options: str) -> None:
            assert title == tmp_path.name

        def start(self) -> None:
            raise PermissionError("No API key configured")

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", LoggedOut)
    seen: list[Any] = []
    with Trackers(spec("wandb"), RunFolder(tmp_path), seen.append) as told:
        told(STEP)
    assert seen == [STEP]
    assert [record.message for record in caplog.records] == [
        "training.report_to: wandb failed and is switched off: No API key configured"
    ]


class Noted:
    """What Accelerate's trackers of services look like, noting what they were made with."""

    name, requires_logging_directory = "wandb", False

    def __init__(self, title: str, **options: str) -> None:
        self.title, self.options = title, options

    def start(self) -> None:
        pass

    def store_init_configuration(self, values: Any) -> None:
        pass

    def finish(self) -> None:
        pass


def test_wandb_keeps_its_files_in_the_run_or_where_its_own_setting_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Noted)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    with Trackers(spec("wandb"), RunFolder(tmp_path)) as told:
        assert told._trackers[0].options == {"dir": str(tmp_path / "trackers")}
    assert (tmp_path / "trackers").is_dir()  # wandb does not make it, and goes elsewhere where it is missing
    monkeypatch.setenv("WANDB_DIR", "/scratch")
    assert Trackers(spec("wandb"), RunFolder(tmp_path))._trackers[0].options == {}


def test_mlflow_keeps_its_store_in_the_run_for_as_long_as_the_run_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris: list[str | None] = []
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(set_tracking_uri=uris.append))
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "mlflow", type("Noted", (Noted,), {"name": "mlflow"}))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = tmp_path / "my run" / "trackers"
    with Trackers(spec("mlflow"), RunFolder(tmp_path / "my run")) as told:
        assert told._trackers[0].options == {"logging_dir": str(store / "mlruns")}
        assert uris == [f"sqlite:///{store.parent.parent}/my%20run/trackers/mlflow.db"]
    assert uris[1:] == [None]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    with Trackers(spec("mlflow"), RunFolder(tmp_path)) as told:
        assert told._trackers[0].options == {}
    assert len(uris) == 2


def test_a_tracker_that_is_not_installed_is_named_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["tensorboard"])
    must_have_trackers(["tensorboard"])
    with pytest.raises(MissingDependencyError, match="wandb is not installed; pip install wandb"):
        must_have_trackers(["tensorboard", "wandb"])
