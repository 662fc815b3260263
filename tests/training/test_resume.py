"""The promise of --resume: killed anywhere, the run ends with the bytes of one that was never stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_train import make_spec, read_events

from tunesmith.run_folder import RunFolder
from tunesmith.spec import dump_spec
from tunesmith.training.events import EvalEvent, StepEvent
from tunesmith.training.run import train

PROGRAM = """
import sys, time, torch
from pathlib import Path
from tunesmith.spec import load_spec
from tunesmith.training.run import train
torch.set_num_threads(1)
train(load_spec(Path(sys.argv[1])), observer=lambda event: time.sleep(0.05))
"""


SFT = {"adapter": {"kind": "lora", "dropout": 0.2}, "training": {"steps": 14, "epochs": None, "checkpoint_every": 4}}
DPO = SFT | {"objective": {"kind": "dpo"}}
GRPO = {
    "adapter": {"kind": "lora", "dropout": 0.2},
    "training": {"steps": 14, "epochs": None, "batch_size": 2, "checkpoint_every": 4, "eval_every": 7},
}


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sft", "dpo", "grpo"])
def test_a_killed_run_resumes_bit_identical_with_dropout(
    objective: str, tickets: Path, pairs: Path, brevity: str, tmp_path: Path
) -> None:
    online = {"kind": "grpo", "reward": brevity, "num_generations": 3, "max_completion_length": 6}
    sections = {"sft": SFT, "dpo": DPO, "grpo": GRPO | {"objective": online}}[objective]
    rows = tickets if objective == "sft" else pairs
    whole = train(make_spec(rows, tmp_path / "whole", **sections))

    spec = make_spec(rows, tmp_path / "killed", **sections)
    spec_file = tmp_path / "run.yaml"
    spec_file.write_text(dump_spec(spec))
    run = RunFolder(Path(spec.output))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(spec_file)], env=environment)
    while process.poll() is None and (not run.events.exists() or run.events.read_text().count('"step",') < 10):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not run.adapter.exists()

    resumed = train(spec, resume=True)

    def curve(folder: RunFolder) -> list[tuple[str, int, float]]:
        kinds = (StepEvent, EvalEvent)
        return [(type(e).__name__, e.step, e.loss) for e in read_events(folder) if isinstance(e, kinds)]

    assert curve(run) == curve(whole.run)
    assert (resumed.steps, resumed.best_step, resumed.tokens) == (whole.steps, whole.best_step, whole.tokens)
    weights = "adapter/adapter_model.safetensors"
    assert (run.root / weights).read_bytes() == (whole.run.root / weights).read_bytes()
