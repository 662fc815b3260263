"""`train --on ray`: the same loop in the workers of Ray Train, on one machine or many, restarted when one is lost.

A worker is a rank as under torchrun. What it leaves is the run folder, which must lie where every worker sees it; so
must the data, the model and the caller's working directory. Ray brings the workers back when one is killed or its
machine is gone, and the run goes on from its last checkpoint; what a person has to mend ends it at once.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tunesmith.errors import MissingDependencyError, RunError, SpecError, TunesmithError
from tunesmith.ray_cluster import ray_cluster
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec, dump_spec, parse_spec
from tunesmith.storage import write_bytes
from tunesmith.training import ranks
from tunesmith.training.events import read_events
from tunesmith.training.messages import Failed, Finished, Message, decode, encode
from tunesmith.training.output import check_output
from tunesmith.training.run import RunResult, TrainObserver, train

RESTARTS = 3
"""How often lost workers are brought back before the run is given up."""

POLL_SECONDS = 0.5


def train_on_ray(
    spec: RunSpec, *, workers: int | None = None, resume: bool = False, observer: TrainObserver | None = None
) -> RunResult:
    """`train` in `workers` workers (default: one for each GPU of the cluster, or each machine where there is none).

    The cluster is that of `ray_cluster`. Raises what `train` raises, MissingDependencyError without Ray, SpecError when
    the cluster is too small, RunError when workers are lost again and again.
    """
    run = RunFolder(Path(spec.output))
    check_output(run, spec, resume=resume)
    with ray_cluster() as ray:
        gpus, cpus = (int(ray.cluster_resources().get(name, 0)) for name in ("GPU", "CPU"))
        workers = (gpus or len(ray.nodes())) if workers is None else workers
        _check_size(workers, gpus, cpus)
        message = _fit(spec, run, workers, gpus, cpus, observer)
    if isinstance(message, Failed):
        raise message.error()
    assert isinstance(message, Finished)  # noqa: S101  # the only other thing that `_work` says
    return message.result()


def _fit(spec: RunSpec, run: RunFolder, workers: int, gpus: int, cpus: int, observer: TrainObserver | None) -> Message:
    """What the main worker says at the end."""
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise MissingDependencyError("--on ray needs Ray Train: pip install 'tunesmith[ray]'") from error

    state = run.root.resolve().parent / f".{run.root.name}.ray"  # Ray's own, and what the main worker says
    said = state / "said.json"
    trainer = TorchTrainer(
        _work,
        train_loop_config={"spec": dump_spec(spec), "folder": str(Path.cwd()), "said": str(said)},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker={"GPU": 1} if gpus else {"CPU": max(1, cpus // workers)},
        ),
        run_config=RunConfig(
            name=run.root.name, storage_path=str(state), failure_config=FailureConfig(max_failures=RESTARTS)
        ),
    )
    try:
        with _followed(run, observer):
            trainer.fit()
        return decode(said.read_bytes())
    except Exception as error:
        raise RunError(f"the workers were lost {RESTARTS + 1} times; go on with --resume ({_cause(error)})") from error
    finally:
        shutil.rmtree(state, ignore_errors=True)


def _work(config: dict[str, str]) -> None:
    """One worker's part of the run, from its start or, when Ray starts it again, from the last checkpoint."""
    os.chdir(config["folder"])
    spec = parse_spec(yaml.safe_load(config["spec"]))
    begun = RunFolder(Path(spec.output)).spec.exists()
    try:
        message: Finished | Failed = Finished.of(train(spec, resume=begun))
    except ranks.RankLostError:
        raise  # Ray starts the workers again
    except TunesmithError as error:
        message = Failed(type(error).__name__, str(error))
    if ranks.is_main():
        write_bytes(Path(config["said"]), encode(message))


def _check_size(workers: int, gpus: int, cpus: int) -> None:
    if workers < 1:
        raise SpecError(f"--workers {workers}: at least one must train")
    if gpus and workers > gpus:
        raise SpecError(f"--workers {workers}: the cluster has {gpus} GPU(s), and each worker needs one")
    if workers > cpus:
        raise SpecError(f"--workers {workers}: the cluster has {cpus} CPU(s), and each worker needs one")


@contextmanager
def _followed(run: RunFolder, observer: TrainObserver | None) -> Iterator[None]:
    """Tell `observer` of the run's events while the block runs, as they come to be in the log."""
    if observer is None:
        yield
        return
    done = threading.Event()
    reader = threading.Thread(target=_follow, args=(run, observer, done.wait), daemon=True)
    reader.start()
    try:
        yield
    finally:
        done.set()
        reader.join()


def _follow(run: RunFolder, observer: TrainObserver, wait: Callable[[float], bool]) -> None:
    told = len(read_events(run.events))
    ended = False
    while not ended:
        ended = wait(POLL_SECONDS)
        events = read_events(run.events)
        told = min(told, len(events))  # a resumed run cuts its log back
        for event in events[told:]:
            observer(event)
        told = len(events)


def _cause(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
