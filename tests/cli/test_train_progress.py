"""What a person reads on the terminal while a run trains."""

import io

import pytest
from rich.console import Console

from tunesmith.cli.progress import TrainProgress
from tunesmith.training.events import EndEvent, EvalEvent, Event, StartEvent, StepEvent


def start(objective: str, **others: object) -> StartEvent:
    fields = {"train_rows": 270, "eval_rows": 30, "trainable_parameters": 8, "total_parameters": 100, "total_steps": 2}
    return StartEvent(objective=objective, model="embedded", precision="fp32", **(fields | others))


def said(*events: Event, terminal: bool = False) -> str:
    out = Console(file=io.StringIO(), width=100, force_terminal=terminal, color_system=None)
    with TrainProgress(out) as progress:
        progress._progress.refresh()
        for event in events:
            progress(event)
            progress._progress.refresh()
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def test_each_run_of_rlhf_says_what_learns_and_a_warning_is_told_once() -> None:
    warned = {"warnings": ("training.warmup is 0",)}
    text = said(start("reward", **warned), EndEvent(2), start("ppo", **warned))
    assert "reward: 270 rows to train on, 30 held out; embedded in fp32" in text
    assert "ppo: 270 rows to train on" in text
    assert text.count("training.warmup is 0") == 1


def test_the_best_so_far_is_no_praise_where_the_base_did_better() -> None:
    rewards = {0: 0.04, 5: 0.02, 10: 0.06}
    evals = [EvalEvent(step, -reward, best=step > 0, measures={"reward": reward}) for step, reward in rewards.items()]
    before, worse, better = said(start("grpo"), *evals).splitlines()[-3:]
    assert before.endswith("held-out reward 0.0400 (before training)")
    assert worse.endswith("held-out reward 0.0200 (best so far, worse than before training)")
    assert better.endswith("held-out reward 0.0600 (best so far)")


@pytest.mark.parametrize("name", ["accuracy", "rewards/accuracies"])
def test_pairs_are_counted_once_there_is_something_to_tell_them_apart_by(name: str) -> None:
    before, after = said(
        start("dpo"), EvalEvent(0, 0.69, measures={name: 0.43}), EvalEvent(4, 0.6, best=True, measures={name: 0.9})
    ).splitlines()[-2:]
    assert before.endswith("validation loss 0.6900 (before training)")
    assert after.endswith("validation loss 0.6000, 90% of the judgements right (best so far)")


def test_the_bar_has_no_loss_before_there_is_one_and_the_reward_of_a_policy() -> None:
    begun = said(start("grpo"), terminal=True)
    assert begun.index("getting ready") < begun.index("measuring the base first")
    assert "loss" not in begun
    assert "tokens/s" not in begun
    going = said(start("grpo"), StepEvent(1, 0.001, tokens=100, seconds=1.0, measures={"reward": 0.25}), terminal=True)
    assert "reward 0.250  100 tokens/s" in going
