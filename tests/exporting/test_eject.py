"""The ejected script: a person can run it, and it says what the run said."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tunesmith.assets import sample
from tunesmith.errors import DataError, RunError
from tunesmith.exporting.eject import eject
from tunesmith.run_folder import RunFolder
from tunesmith.spec import dump_spec, parse_spec


def make_run(tmp_path: Path, rows: list[dict[str, Any]], **sections: object) -> RunFolder:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"steps": 1, "batch_size": 4, "max_length": 64, "learning_rate": 1e-3}
    values = {"model": "embedded", "data": {"train": str(data)}, "training": training, "output": str(tmp_path / "run")}
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    run.spec.write_text(dump_spec(parse_spec(values | sections)))
    return run


def tickets() -> list[dict[str, Any]]:
    return [json.loads(line) for line in sample("tickets").read_text().splitlines()[:12]]


def pairs() -> list[dict[str, Any]]:
    return [json.loads(line) for line in sample("preference").read_text().splitlines()[:12]]


def judged() -> list[dict[str, Any]]:
    return [{"prompt": row["prompt"], "completion": row["chosen"], "label": True} for row in pairs()]


OBJECTIVES: dict[str, tuple[dict[str, Any], str]] = {
    "sft": ({"kind": "sft"}, "SFTTrainer"),
    "dpo": ({"kind": "dpo", "beta": 0.2}, "DPOTrainer"),
    "ipo": ({"kind": "dpo", "loss_type": "ipo"}, "DPOTrainer"),
    "orpo": ({"kind": "dpo", "loss_type": "orpo"}, "ORPOTrainer"),
    "simpo": ({"kind": "dpo", "loss_type": "simpo"}, "CPOTrainer"),
    "kto": ({"kind": "dpo", "loss_type": "kto"}, "KTOTrainer"),
    "reward": ({"kind": "reward"}, "RewardTrainer"),
    "grpo": ({"kind": "grpo", "reward": "brevity.py:reward", "max_completion_length": 8}, "GRPOTrainer"),
}


def make_objective_run(tmp_path: Path, name: str, adapter: str = "lora") -> RunFolder:
    rows = {"sft": tickets, "kto": judged}.get(name, pairs)()
    objective = dict(OBJECTIVES[name][0])
    if name == "grpo":
        reward = tmp_path / "brevity.py"
        reward.write_text("def reward(completions):\n    return [-len(text) for text in completions]\n")
        objective |= {"reward": f"{reward}:reward", "num_generations": 4}
    return make_run(tmp_path, rows, objective=objective, adapter={"kind": adapter})


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("adapter", ["lora", "qlora"])
def test_the_script_is_python_with_the_objectives_trainer_and_none_of_ours(
    name: str, adapter: str, tmp_path: Path
) -> None:
    script = eject(make_objective_run(tmp_path, name, adapter))
    compile(script, "train.py", "exec")
    assert OBJECTIVES[name][1] in script
    assert "import tunesmith" not in script
    assert "from tunesmith" not in script
    assert "learning_rate=0.001" in script
    assert ("load_in_4bit=True" in script) == (adapter == "qlora")


def replaying_run(tmp_path: Path) -> RunFolder:
    train = {"train": str(tmp_path / "rows.jsonl"), "replay": str(sample("general"))}
    return make_run(tmp_path, tickets(), data=train)


def test_replayed_rows_join_the_training_rows_of_the_script(tmp_path: Path) -> None:
    script = eject(replaying_run(tmp_path))
    compile(script, "train.py", "exec")
    assert f"general = load_dataset('json', data_files={str(sample('general'))!r}" in script
    assert script.index("train, held_out = ") < script.index("train = concatenate_datasets([train, general.map(split")


def test_rows_to_replay_that_the_script_cannot_mix_are_refused_with_the_way_out(tmp_path: Path) -> None:
    data = {"train": str(tmp_path / "rows.jsonl"), "replay": str(sample("general"))}
    run = make_run(tmp_path, [{"prompt": "Say hello", "completion": "Hello"}] * 4, data=data)
    with pytest.raises(DataError, match=r"rows.jsonl: with data.replay the script wants openai rows .* --to openai"):
        eject(run)


@pytest.mark.slow
def test_the_scripts_train(tmp_path: Path) -> None:
    """One after another in a process of their own, which imports TRL once and nothing of ours."""
    pytest.importorskip("trl")
    objectives = dict.fromkeys(OBJECTIVES, "lora") | {"reward": "full"}
    for name, adapter in objectives.items():
        folder = tmp_path / name
        folder.mkdir()
        run = replaying_run(folder) if name == "sft" else make_objective_run(folder, name, adapter)
        (folder / "train.py").write_text(eject(run))
    scripts = (
        "import os, runpy, sys\nfor folder in sys.argv[1:]:\n    os.chdir(folder)\n    runpy.run_path('train.py')\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-c", f"{scripts}assert 'tunesmith' not in sys.modules"]
    done = subprocess.run(
        [*command, *(str(tmp_path / name) for name in objectives)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name, adapter in objectives.items():
        weights = "model.safetensors" if adapter == "full" else "adapter_model.safetensors"
        assert (tmp_path / name / "run-trl" / weights).is_file()


def test_rows_that_trl_does_not_read_are_refused_with_the_way_out(tmp_path: Path) -> None:
    run = make_run(tmp_path, [{"instruction": "Say hello", "input": "", "output": "Hello"}] * 4)
    with pytest.raises(DataError, match="TRL does not read alpaca rows; convert them with: tunesmith data convert"):
        eject(run)


def test_what_trl_cannot_do_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, pairs(), objective={"kind": "ppo", "reward": "math:fsum"})
    with pytest.raises(RunError, match="TRL has no PPO trainer any more"):
        eject(run)
