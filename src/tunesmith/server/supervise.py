"""Starts a stage's process and sees it to its end, whatever kills it on the way.

A stage that another process already works on (left by a server that was killed) is waited for, not started twice. A
process that dies without a word is started again and goes on from the checkpoint; one that dies again and again without
getting any further ends the job.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Literal

from tunesmith.server.trainer import BUSY, INTERRUPTED, POLL_SECONDS, JobFolder, Outcome, Stage

MOST_CRASHES = 10
"""In a row, without a new checkpoint between them."""

LONGEST_BACKOFF_SECONDS = 8.0


def run_stage(folder: JobFolder, stage: Stage, slots: int, stop: Callable[[], bool]) -> Outcome | Literal["stopped"]:
    """Run `stage` to its outcome, or until `stop` says so and the process is gone (with its checkpoint kept)."""
    crashes, reached = 0, _newest_checkpoint(folder)
    while (outcome := folder.outcome(stage)) is None:
        if folder.is_held():
            _ask_to_stop_if(folder, stop)
            time.sleep(POLL_SECONDS)
            continue
        if stop():
            return "stopped"
        code = _run_process(folder, stage, slots, stop)
        if code in (BUSY, INTERRUPTED) or folder.outcome(stage) is not None or stop():
            continue
        now = _newest_checkpoint(folder)
        crashes = crashes + 1 if now == reached else 1
        reached = now
        if crashes >= MOST_CRASHES:
            return Outcome(error={"code": "trainer_crashed", "message": _crashed(folder, code), "param": None})
        time.sleep(min(0.25 * 2**crashes, LONGEST_BACKOFF_SECONDS))
    return outcome


def _run_process(folder: JobFolder, stage: Stage, slots: int, stop: Callable[[], bool]) -> int:
    with folder.log.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  # our own module, and paths that we made
            [sys.executable, "-m", "tunesmith.server.trainer", str(folder.root), stage, str(slots)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in the server's terminal is for the server, which asks politely
        )
    while (code := process.poll()) is None:
        _ask_to_stop_if(folder, stop)
        time.sleep(POLL_SECONDS)
    return code


def _ask_to_stop_if(folder: JobFolder, stop: Callable[[], bool]) -> None:
    if stop() and not folder.stop.exists():
        folder.stop.touch()


def _newest_checkpoint(folder: JobFolder) -> int:
    names = [path.name.removeprefix("step-") for path in folder.run.checkpoints.glob("step-*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def _crashed(folder: JobFolder, code: int) -> str:
    how = f"was killed by signal {-code} (out of memory?)" if code < 0 else f"ended with code {code}"
    return f"The trainer {how} {MOST_CRASHES} times without getting further; see {folder.log.name} in the job's folder"
