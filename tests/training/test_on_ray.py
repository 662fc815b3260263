"""Ray Train runs the same loop: two workers give the loss of one process, and a killed one costs no step."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from test_train import make_spec, read_events

from tunesmith.errors import SpecError
from tunesmith.run_folder import RunFolder
from tunesmith.spec import dump_spec
from tunesmith.training.events import EvalEvent, Event, StepEvent
from tunesmith.training.messages import Failed, decode
from tunesmith.training.on_ray import _check_size, _work, train_on_ray
from tunesmith.training.run import train

SETTINGS = {"steps": 6, "epochs": None, "eval_every": 3, "checkpoint_every": 2}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two workers' worth of CPUs on this machine, as important as the test itself."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


def losses(run: RunFolder) -> list[float]:
    return [event.loss for event in read_events(run) if isinstance(event, StepEvent | EvalEvent)]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_two_workers_of_which_one_is_killed_give_the_loss_of_one_process(tickets: Path, tmp_path: Path) -> None:
    one = train(make_spec(tickets, tmp_path / "one", training=SETTINGS)).run
    killed: list[int] = []

    def kill(event: Event) -> None:
        if isinstance(event, StepEvent) and event.step >= 2 and not killed:
            children = psutil.Process().children(recursive=True)
            workers = [child for child in children if "RayTrainWorker" in " ".join(child.cmdline())]
            killed.append(workers[-1].pid)
            os.kill(workers[-1].pid, signal.SIGKILL)

    result = train_on_ray(make_spec(tickets, tmp_path / "two", training=SETTINGS), workers=2, observer=kill)
    assert killed
    assert (result.reason, result.steps) == ("finished", 6)
    assert losses(result.run) == pytest.approx(losses(one), rel=1e-5)
    assert [event.step for event in read_events(result.run) if isinstance(event, StepEvent)] == [1, 2, 3, 4, 5, 6]
    assert result.run.adapter.is_dir()
    assert not list(tmp_path.glob(".*.ray"))


def test_what_a_person_must_mend_ends_the_run_at_once(
    tickets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    broken = make_spec(tickets, tmp_path / "run", adapter={"kind": "lora", "targets": ["nothing"]})
    said = tmp_path / "said.json"
    _work({"spec": dump_spec(broken), "folder": str(tmp_path), "said": str(said)})
    message = decode(said.read_bytes())
    assert isinstance(message, Failed)
    assert "the model has no module `nothing`" in str(message.error())


@pytest.mark.parametrize(
    ("workers", "gpus", "cpus", "message"),
    [(3, 0, 2, r"the cluster has 2 CPU"), (3, 2, 8, r"the cluster has 2 GPU"), (0, 0, 2, "at least one must train")],
)
def test_a_cluster_that_is_too_small_is_refused(workers: int, gpus: int, cpus: int, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        _check_size(workers, gpus, cpus)
