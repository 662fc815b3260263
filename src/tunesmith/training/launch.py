"""Several processes on this machine for one run (`train --processes N`): started, listened to, and stopped together.

They are told who they are through torchrun's environment variables, so what runs here also runs under torchrun and
`accelerate launch`, for more machines than one. Each has a pipe to this process for its events and its result. They
are in sessions of their own: a Ctrl-C reaches them through here, once each, and means what it means to one process.
"""

import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from tunesmith.errors import RunError, SpecError
from tunesmith.settings import load_settings
from tunesmith.spec import RunSpec, dump_spec
from tunesmith.training.messages import Failed, Finished, Message, decode
from tunesmith.training.run import RunResult, TrainObserver

GRACE_SECONDS = 10.0
"""What the other processes get to end by themselves once one is gone."""


def train_in_processes(
    spec: RunSpec, processes: int, *, resume: bool = False, observer: TrainObserver | None = None
) -> RunResult:
    """`train` in `processes` processes on this machine, one GPU each where there are GPUs.

    Raises what `train` raises, SpecError for an impossible number, and RunError when a process is killed.
    """
    _check_number(processes)
    with tempfile.TemporaryDirectory() as folder:
        spec_file = Path(folder) / "run.yaml"
        spec_file.write_text(dump_spec(spec), encoding="utf-8")
        workers = _start(spec_file, processes, resume=resume)
        try:
            with _forwarded_signals(workers):
                return _listen(workers, observer)
        finally:
            _stop(workers)


class _Worker:
    """One process and the reading end of its pipe."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.pipe, writing = os.pipe()
        try:
            self.process = subprocess.Popen(  # noqa: S603  # our own module
                [*command, str(writing)], env=environment, pass_fds=(writing,), start_new_session=True
            )
        finally:
            os.close(writing)
        self._unread = b""

    def messages(self) -> list[Message] | None:
        """What it has said since the last call; None once it has ended."""
        said = os.read(self.pipe, 1 << 16)
        if not said:
            return None
        *lines, self._unread = (self._unread + said).split(b"\n")
        return [decode(line) for line in lines]


def _check_number(processes: int) -> None:
    if processes < 1:
        raise SpecError(f"--processes {processes}: at least one process must train")
    devices = torch.cuda.device_count() if torch.cuda.is_available() else processes
    if processes > devices:
        raise SpecError(
            f"--processes {processes}: this machine has {devices} GPU(s); give at most one process for each"
        )


def _start(spec_file: Path, processes: int, *, resume: bool) -> list[_Worker]:
    command = [sys.executable, "-m", "tunesmith.training.worker", str(spec_file), "resume" if resume else "start"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, load_settings().threads // processes)),
    }
    return [
        _Worker(command, os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]


def _listen(workers: list[_Worker], observer: TrainObserver | None) -> RunResult:
    """Pass on the events until every process has ended, or one has failed."""
    result: RunResult | None = None
    with selectors.DefaultSelector() as pipes:
        for rank, worker in enumerate(workers):
            pipes.register(worker.pipe, selectors.EVENT_READ, (rank, worker))
        while pipes.get_map():
            for key, _ in pipes.select():
                rank, worker = key.data
                messages = worker.messages()
                if messages is None:
                    pipes.unregister(worker.pipe)
                    if worker.process.wait() != 0:
                        raise RunError(_gone(rank, len(workers), worker.process.returncode))
                for message in messages or ():
                    match message:
                        case Failed():
                            raise message.error()
                        case Finished():
                            result = message.result()
                        case event:
                            if observer is not None:
                                observer(event)
    assert result is not None  # noqa: S101  # the first process says so before it ends with 0
    return result


def _gone(rank: int, processes: int, code: int) -> str:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"process {rank + 1} of {processes} {how}; go on from the last checkpoint with --resume"


@contextmanager
def _forwarded_signals(workers: list[_Worker]) -> Iterator[None]:
    """What asks this process to stop asks all of them."""

    def forward(number: int, _frame: FrameType | None) -> None:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.send_signal(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, forward)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(workers: list[_Worker]) -> None:
    """See that none is left, also one that waits for another which is gone."""
    until = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        os.close(worker.pipe)
    for worker in workers:
        try:
            worker.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
