"""Several processes give the loss, the gradients and the weights of one, and one goes on from what they leave."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from forked_ranks import run_ranks
from safetensors.torch import load_file
from test_train import make_spec, read_events

from tunesmith.errors import RunError, SpecError, TrainingError
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec, dump_spec
from tunesmith.training import ranks
from tunesmith.training.events import EvalEvent, Event, StartEvent, StepEvent
from tunesmith.training.launch import train_in_processes
from tunesmith.training.run import train
from tunesmith.training.sharding import wants_sharding

SETTINGS = {"steps": 4, "epochs": None, "eval_every": 2, "checkpoint_every": 2, "max_length": 96}


def curve(run: RunFolder) -> list[float]:
    return [event.loss for event in read_events(run) if isinstance(event, StepEvent | EvalEvent)]


def measures(run: RunFolder) -> list[dict[str, float]]:
    """The measures of each step and evaluation, without the accuracy of those that tell no pair apart.

    Before the first update policy and reference are equal: which of two rewards is larger is the rounding's choice.
    """
    told = [event.measures for event in read_events(run) if isinstance(event, StepEvent | EvalEvent)]
    for values in told:
        if all(abs(values.get(f"rewards/{reply}", 1.0)) < 1e-5 for reply in ("chosen", "rejected")):
            del values["rewards/accuracies"]
    return told


def trained(run: RunFolder) -> dict[str, torch.Tensor]:
    files = [*run.adapter.glob("*.safetensors"), *run.model.glob("*.safetensors")]
    return load_file(files[0])


def assert_same_weights(run: RunFolder, other: RunFolder, *, atol: float) -> None:
    weights, expected = trained(run), trained(other)
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=atol)


def steps(run: RunFolder) -> list[int]:
    return [event.step for event in read_events(run) if isinstance(event, StepEvent)]


@pytest.mark.parametrize(
    ("adapter", "objective"),
    [
        ("lora", {"kind": "sft"}),
        ("full", {"kind": "sft"}),
        ("full", {"kind": "dpo"}),
        ("lora", {"kind": "dpo"}),
        ("lora", {"kind": "dpo", "loss_type": "kto"}),
        ("lora", {"kind": "reward"}),
        ("lora, sharded", {"kind": "sft"}),
        ("lora, sharded", {"kind": "dpo"}),
        ("lora, sharded", {"kind": "reward"}),
        pytest.param("lora, sharded", {"kind": "dpo", "loss_type": "kto"}, marks=pytest.mark.slow),
    ],
    ids=[
        "lora-sft",
        "sharded-sft",
        "sharded-dpo",
        "dpo",
        "kto",
        "reward",
        "sharded-lora-sft",
        "sharded-lora-dpo",
        "sharded-lora-reward",
        "sharded-lora-kto",
    ],
)
def test_two_ranks_give_the_losses_and_weights_of_one(
    adapter: str, objective: dict[str, str], tickets: Path, pairs: Path, judged: Path, tmp_path: Path
) -> None:
    rows = tickets if objective["kind"] == "sft" else judged if "loss_type" in objective else pairs
    adapter, _, sharded = adapter.partition(", ")
    training = SETTINGS | {"batch_size": 5, "sharding": "fsdp" if sharded else "auto"}
    sections = {"adapter": {"kind": adapter}, "objective": objective, "training": training}
    one = train(make_spec(rows, tmp_path / "one", **sections)).run
    both = make_spec(rows, tmp_path / "both", **sections)
    run_ranks(2, lambda: train(both) and None)
    two = RunFolder(Path(both.output))
    assert curve(two) == pytest.approx(curve(one), rel=1e-5)
    for own, other in zip(measures(two), measures(one), strict=True):
        assert own == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert steps(two) == [1, 2, 3, 4]
    assert_same_weights(two, one, atol=2e-5)


@pytest.mark.parametrize(
    ("adapter", "sharding", "sharded"),
    [("full", "auto", True), ("full", "none", False), ("lora", "auto", False), ("lora", "fsdp", True)],
)
def test_what_is_trained_in_full_is_sharded_and_a_frozen_base_where_it_is_asked_for(
    adapter: str, sharding: str, sharded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(Path("rows.jsonl"), Path("run"), adapter={"kind": adapter}, training={"sharding": sharding})
    assert not wants_sharding(spec)  # one process by itself
    monkeypatch.setattr(ranks, "count", lambda: 2)
    assert wants_sharding(spec) == sharded


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"adapter": {"kind": "qlora"}}, "adapter.kind qlora"),
        ({"adapter": {"kind": "lora", "init": "pissa"}}, "adapter.init pissa"),
    ],
)
def test_sharding_is_refused_where_ranks_cannot_compute_equally_often_and_what_keeps_them_is_named(
    sections: dict[str, dict[str, object]], named: str, pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=f"training.sharding: fsdp does not go with {named}"):
        make_spec(pairs, tmp_path / "run", training={"sharding": "fsdp"}, **sections)


@pytest.mark.parametrize(
    ("adapter", "sharding", "objective"),
    [
        ("lora", "auto", {"kind": "grpo", "num_iterations": 2}),
        pytest.param("lora", "fsdp", {"kind": "grpo", "beta": 0.04}, marks=pytest.mark.slow),
        pytest.param("full", "auto", {"kind": "grpo", "beta": 0.04, "num_iterations": 2}, marks=pytest.mark.slow),
        pytest.param("lora", "auto", {"kind": "ppo", "num_ppo_epochs": 2}, marks=pytest.mark.slow),
        pytest.param("lora", "fsdp", {"kind": "ppo", "num_ppo_epochs": 2}, marks=pytest.mark.slow),
        pytest.param("full", "auto", {"kind": "ppo", "num_ppo_epochs": 2}, marks=pytest.mark.slow),
    ],
    ids=["grpo", "sharded-lora-grpo", "sharded-grpo", "ppo", "sharded-lora-ppo", "sharded-ppo"],
)
def test_two_ranks_make_the_replies_of_one_and_learn_the_same_from_them(
    adapter: str, sharding: str, objective: dict[str, object], pairs: Path, brevity: str, tmp_path: Path
) -> None:
    """Three prompts to a step: one rank has two of them, and in the evaluation its replies are other batches."""
    few = {"num_generations": 4} if objective["kind"] == "grpo" else {}
    settings = {
        "adapter": {"kind": adapter},
        "objective": {"reward": brevity, "max_completion_length": 6, **few, **objective},
        "training": SETTINGS
        | {"steps": 3, "eval_every": 3, "batch_size": 3, "learning_rate": 1e-3, "sharding": sharding},
    }
    one = train(make_spec(pairs, tmp_path / "one", **settings)).run
    both = make_spec(pairs, tmp_path / "both", **settings)
    run_ranks(2, lambda: train(both) and None)
    two = RunFolder(Path(both.output))
    assert curve(two) == pytest.approx(curve(one), rel=1e-5, abs=1e-5)
    for own, other in zip(measures(two), measures(one), strict=True):
        assert own == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert_same_weights(two, one, atol=5e-5)


@pytest.mark.parametrize(
    ("adapter", "ranks_after", "objective"),
    [
        ("lora", 1, {"kind": "sft"}),
        ("full", 1, {"kind": "sft"}),
        ("full", 2, {"kind": "sft"}),
        pytest.param("full", 1, {"kind": "ppo", "num_ppo_epochs": 1}, marks=pytest.mark.slow),
        pytest.param("full", 2, {"kind": "ppo", "num_ppo_epochs": 1}, marks=pytest.mark.slow),
    ],
)
def test_one_process_or_two_go_on_from_what_two_have_left(
    adapter: str, ranks_after: int, objective: dict[str, object], tickets: Path, brevity: str, tmp_path: Path
) -> None:
    if objective["kind"] == "ppo":
        objective = {"reward": brevity, "max_completion_length": 6, **objective}

    def spec(output: str) -> RunSpec:
        return make_spec(
            tickets,
            tmp_path / output,
            adapter={"kind": adapter},
            objective=objective,
            training=SETTINGS | {"batch_size": 4},
        )

    whole = train(spec("whole")).run
    part = spec("part")

    def stop_in_the_middle() -> None:
        def interrupt(event: Event) -> None:
            if isinstance(event, StepEvent) and event.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)  # to the first rank only: both must stop after the same step

        assert train(part, observer=interrupt).reason == "interrupted"

    run_ranks(2, stop_in_the_middle)
    run = RunFolder(Path(part.output))
    assert steps(run) == [1, 2]
    run_ranks(ranks_after, lambda: train(part, resume=True) and None)
    assert curve(run) == pytest.approx(curve(whole), rel=1e-5, abs=1e-5)
    assert steps(run) == [1, 2, 3, 4]


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_what_stops_one_rank_stops_all_of_them_with_a_checkpoint(sharding: str, pairs: Path, tmp_path: Path) -> None:
    code = tmp_path / "rewards.py"
    code.write_text(
        "import os\n"
        "calls = []\n"
        "def reward(completions):\n"
        "    calls.append(1)\n"
        "    if len(calls) > 2 and os.environ['RANK'] == '1':\n"
        "        raise KeyError('price')\n"
        "    return [-len(text) for text in completions]\n"
    )
    objective = {"kind": "grpo", "reward": f"{code}:reward", "num_generations": 2, "max_completion_length": 4}
    training = SETTINGS | {"batch_size": 2, "eval_every": 4, "checkpoint_every": 50, "sharding": sharding}
    spec = make_spec(pairs, tmp_path / "run", objective=objective, training=training)

    def stopped() -> None:
        with pytest.raises(TrainingError, match=r"reward raised KeyError: 'price'"):
            train(spec)

    run_ranks(2, stopped)
    assert [path.name for path in RunFolder(Path(spec.output)).checkpoints.iterdir()] == ["step-1"]


def test_rows_are_dealt_out_whole_and_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "count", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(ranks, "index", lambda rank=rank: rank)
        shares.append(ranks.share([5, 50, 7, 30, 9, 40, 6], int))
    assert sorted(size for own in shares for size in own) == [5, 6, 7, 9, 30, 40, 50]
    assert max(map(sum, shares)) - min(map(sum, shares)) <= 50


def test_an_impossible_number_of_processes_is_refused(tickets: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--processes 0: at least one"):
        train_in_processes(make_spec(tickets, tmp_path / "run"), 0)


def test_a_run_that_cannot_start_says_so_once_and_leaves_nothing(tickets: Path, tmp_path: Path) -> None:
    spec = make_spec(tickets, tmp_path / "run", adapter={"kind": "lora", "targets": ["nothing"]})

    def refused() -> None:
        with pytest.raises(SpecError, match="the model has no module `nothing`"):
            train(spec)

    run_ranks(2, refused)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_a_killed_process_ends_the_run_whole_and_it_resumes(
    sharded: bool, tickets: Path, brevity: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sections: dict[str, dict[str, object]] = {"training": SETTINGS | {"steps": 6, "batch_size": 4}}
    if sharded:
        online = {"kind": "grpo", "reward": brevity, "num_generations": 2, "max_completion_length": 8}
        sections |= {"adapter": {"kind": "full"}, "objective": online}
    spec = make_spec(tickets, tmp_path / "run", **sections)
    run = RunFolder(Path(spec.output))
    seen: list[int] = []

    def kill(event: Event) -> None:
        if isinstance(event, StepEvent):
            seen.append(event.step)
            if event.step == 3:
                own = [child for child in psutil.Process().children() if "tunesmith.training.worker" in child.cmdline()]
                max(own, key=lambda child: child.pid).kill()

    with pytest.raises(RunError, match=r"process 2 of 2 was killed by SIGKILL; go on from the last checkpoint"):
        train_in_processes(spec, 2, observer=kill)
    assert "Traceback" not in capfd.readouterr().err
    assert (run.checkpoints / "step-2").is_dir()
    result = train_in_processes(spec, 2, resume=True)
    assert (result.reason, result.steps) == ("finished", 6)
    assert steps(run) == [1, 2, 3, 4, 5, 6]
    assert (run.model if sharded else run.adapter).is_dir()


@pytest.mark.slow
def test_torchrun_starts_the_command_line(tickets: Path, tmp_path: Path) -> None:
    spec = make_spec(tickets, tmp_path / "run", training=SETTINGS)
    spec_file = tmp_path / "run.yaml"
    spec_file.write_text(dump_spec(spec))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "tunesmith", "train", str(spec_file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished after 4 steps") == 1
    assert sum(isinstance(event, StartEvent) for event in read_events(RunFolder(Path(spec.output)))) == 1
