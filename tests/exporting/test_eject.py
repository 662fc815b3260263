"""The ejected script: a person can run it, and it says what the run said."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tunesmith.assets import sample
from tunesmith.dataset.run_rows import read_rows
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
    "rpo": ({"kind": "dpo", "sft_weight": 0.5}, "DPOTrainer"),
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
        reward.write_text(
            "from scale import BY\n\ndef reward(completions, reference, **columns):\n"
            "    assert isinstance(columns['prompts'][0], str)\n"
            "    return [-abs(len(text) - len(wanted)) * BY for text, wanted in zip(completions, reference)]\n\n"
            "def asks(completions):\n    return ['?' in text for text in completions]\n"
        )
        (tmp_path / "scale.py").write_text("BY = 2.0\n")
        rewards = [f"{reward}:reward", f"{reward}:asks"]
        objective |= {"reward": rewards, "reward_weights": [1.0, 0.5], "num_generations": 4}
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


def written(run: RunFolder, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.ejected / f"{name}.jsonl").read_text().splitlines()]


def test_the_scripts_rows_are_those_of_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, tickets())
    eject(run)
    split = read_rows(run.load_spec().data, 0)
    assert [row["completion"][-1]["content"] for row in written(run, "train")] == [
        row.messages[-1].content for row in split.train
    ]
    assert len(written(run, "eval")) == len(split.validation) > 0


@pytest.mark.parametrize(
    ("data", "held_out"),
    [({"holdout": 0}, 0), ({"eval": str(sample("tickets"))}, len(sample("tickets").read_text().splitlines()))],
)
def test_the_script_validates_on_what_the_run_does(data: dict[str, Any], held_out: int, tmp_path: Path) -> None:
    run = make_run(tmp_path, tickets(), data={"train": str(tmp_path / "rows.jsonl")} | data)
    script = eject(run)
    assert ("eval_dataset=eval_rows" in script) == ("eval_strategy='epoch'" in script) == bool(held_out)
    assert not held_out or len(written(run, "eval")) == held_out


def test_a_vllm_that_the_script_cannot_ask_is_left_out_with_the_way_to_one(tmp_path: Path) -> None:
    run = make_objective_run(tmp_path, "grpo")
    objective = run.load_spec().objective.model_copy(update={"vllm_url": "http://127.0.0.1:8001/v1"})
    run.spec.write_text(dump_spec(run.load_spec().model_copy(update={"objective": objective})))
    script = eject(run)
    compile(script, "train.py", "exec")
    assert "# The run's replies were made by the vLLM at http://127.0.0.1:8001/v1; here the model makes them" in script
    assert "    use_vllm" not in script


def replaying_run(tmp_path: Path) -> RunFolder:
    train = {"train": str(tmp_path / "rows.jsonl"), "replay": str(sample("general"))}
    return make_run(tmp_path, tickets(), data=train)


def test_replayed_rows_join_the_training_rows_of_the_script(tmp_path: Path) -> None:
    run = replaying_run(tmp_path)
    eject(run)
    split = read_rows(run.load_spec().data, 0)
    assert len(written(run, "train")) == len(split.train) > len(tickets())


@pytest.mark.parametrize(
    ("row", "objective", "columns"),
    [
        ({"question": "Say hello", "answer": "Hello"}, {"kind": "sft"}, {"prompt", "completion"}),
        ({"instruction": "Say hello", "input": "", "output": "Hello"}, {"kind": "sft"}, {"prompt", "completion"}),
        ({"text": "Hello there, you all."}, {"kind": "sft"}, {"text"}),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "No"}, {"kind": "sft"}, {"prompt", "completion"}),
        (
            {
                "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
                "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No"}],
            },
            {"kind": "dpo"},
            {"prompt", "chosen", "rejected"},
        ),
        (
            {"prompt": "Hi", "completion": "Hello", "weight": 2},
            {"kind": "grpo", "reward": "math:fsum"},
            {"prompt", "reference", "label", "weight"},
        ),
    ],
)
def test_rows_of_every_format_are_written_in_trls_columns(
    row: dict[str, Any], objective: dict[str, Any], columns: set[str], tmp_path: Path
) -> None:
    run = make_run(tmp_path, [row] * 4, objective=objective, data={"train": str(tmp_path / "rows.jsonl"), "holdout": 0})
    eject(run)
    assert written(run, "train")[0].keys() == columns


def test_rows_that_the_objective_cannot_learn_from_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, tickets(), objective={"kind": "dpo"})
    with pytest.raises(DataError, match=r"rows\.jsonl:\d+: no rejected reply to compare with"):
        eject(run)
    assert not run.ejected.exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bf16_is_asked_for_so_that_transformers_gives_it_on_a_cpu_too(precision: str, tmp_path: Path) -> None:
    training = {"steps": 1, "max_length": 64, "precision": precision}
    script = eject(make_run(tmp_path, tickets(), training=training))
    assert f"bf16={precision == 'bf16'}" in script
    assert ("use_cpu=not torch.accelerator.is_available()" in script) == (precision == "bf16")


def test_a_constant_learning_rate_is_warmed_up_as_in_the_run(tmp_path: Path) -> None:
    training = {"steps": 4, "max_length": 64, "scheduler": "constant", "warmup": 0.5}
    assert "lr_scheduler_type='constant_with_warmup'" in eject(make_run(tmp_path, tickets(), training=training))


@pytest.mark.slow
def test_the_scripts_train(tmp_path: Path) -> None:
    """One after another in a process of their own, which imports TRL once and nothing of ours."""
    pytest.importorskip("trl")
    objectives = dict.fromkeys(OBJECTIVES, "lora") | {"reward": "full", "ipo": "prefix"}
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
        assert (tmp_path / name / "run" / "trl" / "output" / weights).is_file()


def test_what_trl_cannot_do_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, pairs(), objective={"kind": "ppo", "reward": "math:fsum"})
    with pytest.raises(RunError, match="TRL has no PPO trainer any more"):
        eject(run)
