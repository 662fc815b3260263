"""Reward functions: how they are found and called, and what a person reads when they go wrong."""

import math
from pathlib import Path

import pytest
from test_train import make_spec, read_events

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.errors import RunError, SpecError, TrainingError
from tunesmith.training.events import EvalEvent, StepEvent
from tunesmith.training.rewards import FunctionReward, Rewards, open_reward, reward_names
from tunesmith.training.run import train

ROWS = [
    Conversation((Message("user", f"Question {n}"), Message("assistant", f"Answer {n}")), metadata={"weight": n})
    for n in range(2)
]


def reward(tmp_path: Path, code: str) -> FunctionReward:
    path = tmp_path / "rewards.py"
    path.write_text(code)
    found = open_reward(f"{path}:reward")
    assert isinstance(found, FunctionReward)
    return found


def test_a_function_is_given_the_arguments_that_it_names(tmp_path: Path) -> None:
    code = (
        "def reward(completions, reference, weight):\n"
        "    return [w + (c == r) for c, r, w in zip(completions, reference, weight)]\n"
    )
    assert reward(tmp_path, code).score(ROWS, ["Answer 0", "no"]) == [1.0, 1.0]


def test_a_function_in_trls_form_is_given_everything(tmp_path: Path) -> None:
    code = "def reward(prompts, completions, **columns):\n    return [len(prompts) + len(columns['weight'])] * 2\n"
    assert reward(tmp_path, code).score(ROWS, ["a", "b"]) == [4.0, 4.0]


def test_what_a_function_raises_is_told_with_its_place(tmp_path: Path) -> None:
    code = "def reward(completions):\n    return [1 / 0]\n"
    with pytest.raises(TrainingError, match=r"raised ZeroDivisionError: .* \(.*rewards\.py:2\); mend it and"):
        reward(tmp_path, code).score(ROWS, ["a", "b"])


def test_a_reply_that_a_function_does_not_judge_has_no_reward(tmp_path: Path) -> None:
    judged, unjudged = reward(tmp_path, "def reward(completions):\n    return [1, None]\n").score(ROWS, ["a", "b"])
    assert judged == 1.0
    assert math.isnan(unjudged)


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "SystemExit"])
def test_what_would_end_the_process_keeps_the_run_too(raised: str, tmp_path: Path) -> None:
    code = f"def reward(completions):\n    raise {raised}\n"
    with pytest.raises(TrainingError, match=rf"raised {raised} \(.*rewards\.py:2\); mend it and"):
        reward(tmp_path, code).score(ROWS, ["a", "b"])


@pytest.mark.parametrize("returned", ["[1.0]", "[1.0, float('nan')]", "None", "['a', 'b']", "'12'", "{1: 1, 2: 2}"])
def test_what_is_not_a_number_per_completion_is_refused(returned: str, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"must return a list of 2 finite numbers, one per completion .*, and returned .+; mend"
    ):
        reward(tmp_path, f"def reward(completions):\n    return {returned}\n").score(ROWS, ["a", "b"])


def test_a_file_may_import_what_lies_beside_it_and_define_classes(tmp_path: Path) -> None:
    (tmp_path / "lengths_beside.py").write_text("def measure(text):\n    return len(text)\n")
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom lengths_beside import measure\n\n"
        "@dataclass\nclass Scale:\n    by: float\n\n"
        "def reward(completions):\n    return [measure(text) * Scale(2.0).by for text in completions]\n"
    )
    assert reward(tmp_path, code).score(ROWS, ["four", ""]) == [8.0, 0.0]


def test_a_module_in_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reward_here.py").write_text("def reward(completions):\n    return [1.0] * len(completions)\n")
    monkeypatch.chdir(tmp_path)
    source = open_reward("reward_here:reward")
    assert isinstance(source, FunctionReward)
    assert source.score(ROWS, ["hi", "ho"]) == [1.0, 1.0]


class Fixed:
    def __init__(self, *rewards: float) -> None:
        self._rewards = list(rewards)

    def score(self, rows: list[Conversation], replies: list[str]) -> list[float]:
        return self._rewards


def test_several_rewards_are_added_up_by_weight_without_those_that_do_not_judge_a_reply() -> None:
    rewards = Rewards({"right": Fixed(1.0, math.nan, math.nan), "short": Fixed(-4.0, 2.0, math.nan)}, [1.0, 0.5])
    given = rewards.give([], [])
    assert [one.total for one in given] == pytest.approx([-1.0, 1.0, math.nan], nan_ok=True)
    assert given[0].parts == {"right": 1.0, "short": -4.0}


def test_rewards_have_short_names_unless_two_are_alike() -> None:
    assert reward_names(["code/a.py:right", "package.module:short", "runs/judge"]) == ["right", "short", "judge"]
    assert reward_names(["a.py:reward", "b.py:reward"]) == ["a.py:reward", "b.py:reward"]


def test_a_module_is_named_by_its_import_path() -> None:
    assert isinstance(open_reward("math:fsum"), FunctionReward)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "neither the folder of a reward run, nor path.py:function, nor module:function"),
        ("no_such_module:reward", "cannot import no_such_module: ModuleNotFoundError"),
        ("math:no_such_function", "math has no function `no_such_function`"),
        ("missing.py:reward", "cannot import missing.py: FileNotFoundError"),
    ],
)
def test_a_reward_that_cannot_be_found_is_named(name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        open_reward(name)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        open_reward(str(tmp_path))


def test_a_run_learns_from_the_replies_that_are_judged_and_stops_where_none_is_that_is_held_out(
    pairs: Path, tmp_path: Path
) -> None:
    """Of two rewards, each has its curve."""
    code = tmp_path / "rewards.py"
    rewards = {"reward": [f"{code}:length", f"{code}:one"], "reward_weights": [2.0, 0.5]}
    objective = {"kind": "grpo", **rewards, "num_generations": 2, "max_completion_length": 4}
    training = {"steps": 1, "epochs": None, "batch_size": 4, "eval_every": 1, "max_length": 96}
    code.write_text(
        "def length(completions):\n    return [len(text) if n % 3 else None for n, text in enumerate(completions)]\n"
        "def one(completions):\n    return [1.0] * len(completions)\n"
    )
    run = train(make_spec(pairs, tmp_path / "half", objective=objective, training=training)).run
    events = [event for event in read_events(run) if isinstance(event, StepEvent | EvalEvent)]
    assert len(events) == 3
    for event in events:
        assert math.isfinite(event.loss)
        assert event.measures["rewards/length/mean"] > 0
        assert event.measures["rewards/one/mean"] == 1.0
        assert event.measures["reward"] > 0.5
    code.write_text("def length(completions):\n    return [None for text in completions]\none = length\n")
    with pytest.raises(TrainingError, match="None for every reply to a held-out prompt"):
        train(make_spec(pairs, tmp_path / "none", objective=objective, training=training))
