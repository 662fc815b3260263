"""rlhf: a reward model from preferences, then a policy that it rewards, as one run that resumes."""

from pathlib import Path

import pytest
import torch
from forked_ranks import run_ranks
from test_train import make_spec, read_events

from tunesmith.errors import DataError
from tunesmith.models.load import load_reward_model, load_tuned
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RewardSpec, RlhfSpec
from tunesmith.training.events import EvalEvent, Event, StepEvent
from tunesmith.training.run import train


@pytest.mark.slow
def test_rlhf_trains_the_reward_model_and_then_the_policy_and_resumes_between(pairs: Path, tmp_path: Path) -> None:
    objective = {"kind": "rlhf", "policy": {"kind": "ppo", "max_completion_length": 6, "num_ppo_epochs": 2}}
    training = {"steps": 4, "epochs": None, "batch_size": 6, "learning_rate": 2e-3, "max_length": 96, "eval_every": 4}
    spec = make_spec(pairs, tmp_path / "run", objective=objective, training=training)
    run, stage = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run" / "reward")

    def killed_in_the_policy(event: Event) -> None:
        if stage.adapter.is_dir() and isinstance(event, StepEvent):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, observer=killed_in_the_policy)
    assert not run.adapter.is_dir()
    reward_weights = (stage.adapter / "adapter_model.safetensors").read_bytes()

    result = train(spec, resume=True)
    assert result.reason == "finished"
    assert isinstance(run.load_spec().objective, RlhfSpec)
    assert isinstance(stage.load_spec().objective, RewardSpec)
    assert (stage.adapter / "adapter_model.safetensors").read_bytes() == reward_weights
    last = [event for event in read_events(stage) if isinstance(event, EvalEvent)][-1]
    assert last.measures["accuracy"] >= 0.5
    steps = [event for event in read_events(run) if isinstance(event, StepEvent)]
    assert [step.step for step in steps] == [1, 2, 3, 4]
    assert all({"reward", "kl", "completions/mean_length"} <= step.measures.keys() for step in steps)
    assert load_tuned(run, dtype=torch.float32) is not None
    assert load_reward_model(stage, dtype=torch.float32) is not None


def test_a_prompt_without_room_for_a_reply_is_told_before_a_reward_model_is_trained(
    pairs: Path, tmp_path: Path
) -> None:
    objective = {"kind": "rlhf", "policy": {"kind": "ppo", "max_completion_length": 90}}
    with pytest.raises(DataError, match=r"a reply of 90 do not fit into 96; raise training\.max_length"):
        train(make_spec(pairs, tmp_path / "run", objective=objective, training={"max_length": 96}))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_ranks_that_share_the_model_rank_and_reward_as_one_does(pairs: Path, tmp_path: Path) -> None:
    objective = {"kind": "rlhf", "policy": {"kind": "ppo", "max_completion_length": 6, "num_ppo_epochs": 1}}
    training = {"steps": 2, "epochs": None, "batch_size": 3, "max_length": 96, "eval_every": 2, "sharding": "fsdp"}
    one = train(make_spec(pairs, tmp_path / "one", objective=objective, training=training)).run
    both = make_spec(pairs, tmp_path / "both", objective=objective, training=training)
    run_ranks(2, lambda: train(both) and None)
    for own, other in zip(told(RunFolder(Path(both.output))), told(one), strict=True):
        assert own == pytest.approx(other, rel=1e-4, abs=1e-4)


def told(run: RunFolder) -> list[dict[str, float]]:
    events = [event for event in read_events(run) if isinstance(event, StepEvent | EvalEvent)]
    return [{"loss": event.loss, **event.measures} for event in events]
