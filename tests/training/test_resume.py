"""The promise of --resume: killed at any moment, the run ends with the bytes of one that was never stopped."""

import os
import random
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train import make_spec, read_events

from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec
from tunesmith.training.events import StartEvent
from tunesmith.training.run import train

SETTINGS = {"steps": 8, "epochs": None, "checkpoint_every": 3, "eval_every": 4, "max_length": 96}

SECTIONS: dict[str, dict[str, Any]] = {
    "sft": {"objective": {"kind": "sft"}, "training": SETTINGS},
    "dpo": {"objective": {"kind": "dpo"}, "training": SETTINGS},
    "grpo": {
        "objective": {"kind": "grpo", "num_generations": 3, "max_completion_length": 4},
        "training": SETTINGS | {"batch_size": 2},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("objective", SECTIONS)
def test_a_run_that_is_killed_again_and_again_ends_bit_identical_with_dropout(
    objective: str, tickets: Path, pairs: Path, brevity: str, tmp_path: Path
) -> None:
    sections = SECTIONS[objective] | {"adapter": {"kind": "lora", "dropout": 0.2}}
    if objective == "grpo":
        sections["objective"] = sections["objective"] | {"reward": brevity}
    rows = tickets if objective == "sft" else pairs
    whole = train(make_spec(rows, tmp_path / "whole", **sections)).run

    killed = make_spec(rows, tmp_path / "killed", **sections)
    moment = random.Random(objective)
    deaths = 0
    while train_and_die(killed, after_syncs=moment.randint(4, 20)):
        deaths += 1
        assert deaths < 40
    assert deaths > 1

    run = RunFolder(Path(killed.output))
    assert curve(run) == curve(whole)
    weights = "adapter_model.safetensors"
    assert (run.adapter / weights).read_bytes() == (whole.adapter / weights).read_bytes()
    assert not [path for path in run.root.rglob("*") if path.name.startswith(".")], "half-written, and left there"


def curve(run: RunFolder) -> list[tuple[str, int, float]]:
    """The run's events but its starts, one for each that was survived."""
    return [
        (type(event).__name__, event.step, getattr(event, "loss", 0.0))
        for event in read_events(run)
        if not isinstance(event, StartEvent)
    ]


def train_and_die(spec: RunSpec, *, after_syncs: int) -> bool:
    """Train in a process that is killed at a write, unless it ends before; whether it was.

    What the disk holds changes only at writes, so these are all the moments that there are to be killed at.
    """
    process = get_context("fork").Process(target=_mortal, args=(spec, after_syncs))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _mortal(spec: RunSpec, after_syncs: int) -> None:
    left = after_syncs
    sync = os.fsync

    def fatal(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            if Path(f"/proc/self/fd/{descriptor}").readlink().name == "events.jsonl":
                os.truncate(descriptor, os.fstat(descriptor).st_size - 7)  # a line that reached the disk in part
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    os.fsync = fatal
    torch.set_num_threads(1)
    train(spec, resume=RunFolder(Path(spec.output)).spec.exists())
    os._exit(0)
