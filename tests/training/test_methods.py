"""Every adapter with every objective that it can carry, on the embedded model: the objective's own measure improves."""

from pathlib import Path

import pytest
import torch
from test_train import make_spec, read_events

from tunesmith.models.load import load_reward_model, load_tuned
from tunesmith.run_folder import RunFolder
from tunesmith.training.events import EvalEvent, StepEvent
from tunesmith.training.run import train

ADAPTERS = ("lora", "full", "qlora", "prefix", "prompt")
LEARNING_RATES = {"lora": 1e-3, "qlora": 3e-3, "full": 1e-4, "prefix": 3e-2, "prompt": 3e-2}
"""Soft prompts need high rates, full fine-tuning low ones."""


def run(rows: Path, output: Path, adapter: str, objective: dict[str, object], **training: object) -> RunFolder:
    if adapter == "qlora":
        pytest.importorskip("bitsandbytes")
    settings = {
        "steps": 6, "epochs": None, "batch_size": 8, "learning_rate": LEARNING_RATES[adapter],
        "scheduler": "constant", "warmup": 0.0, "eval_every": 6, "max_length": 96,
    }  # fmt: skip
    spec = make_spec(rows, output, adapter={"kind": adapter}, objective=objective, training=settings | training)
    return train(spec).run


def first_and_last(run: RunFolder) -> tuple[EvalEvent, EvalEvent]:
    evals = [event for event in read_events(run) if isinstance(event, EvalEvent)]
    return evals[0], evals[-1]


def slow_but(fast: tuple[str, str], *cases: tuple[str, str]) -> list[object]:
    """Test parameters, all slow but one: each of these trains a model."""
    return [pytest.param(*case, marks=() if case == fast else pytest.mark.slow) for case in cases]


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_imitating_the_chosen_replies_lowers_the_loss(adapter: str, pairs: Path, tmp_path: Path) -> None:
    folder = run(pairs, tmp_path / "run", adapter, {"kind": "sft"})
    before, after = first_and_last(folder)
    assert after.loss < before.loss - 0.02
    assert load_tuned(folder, dtype=torch.float32) is not None


@pytest.mark.parametrize(
    ("adapter", "loss_type"),
    slow_but(
        ("lora", "sigmoid"),
        *((adapter, "sigmoid") for adapter in ADAPTERS),
        *(("lora", loss_type) for loss_type in ("ipo", "orpo", "simpo")),
    ),
)
def test_preferring_widens_the_margin(adapter: str, loss_type: str, pairs: Path, tmp_path: Path) -> None:
    before, after = first_and_last(run(pairs, tmp_path / "run", adapter, {"kind": "dpo", "loss_type": loss_type}))
    assert after.loss < before.loss
    assert after.measures["rewards/margins"] > before.measures["rewards/margins"] + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_judged_replies_part_ways(adapter: str, judged: Path, tmp_path: Path) -> None:
    before, after = first_and_last(run(judged, tmp_path / "run", adapter, {"kind": "dpo", "loss_type": "kto"}))
    assert after.loss < before.loss
    assert after.measures["rewards/chosen"] > after.measures["rewards/rejected"] + 0.05


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "full", "qlora"])
def test_a_reward_model_learns_to_tell_the_replies_apart(adapter: str, pairs: Path, tmp_path: Path) -> None:
    folder = run(pairs, tmp_path / "run", adapter, {"kind": "reward"})
    before, after = first_and_last(folder)
    assert after.loss < before.loss
    assert after.measures["accuracy"] == 1.0
    assert load_reward_model(folder, dtype=torch.float32) is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "kind"), [(adapter, kind) for adapter in ("lora", "full", "prompt") for kind in ("grpo", "ppo")]
)
def test_a_rewarded_policy_earns_more(adapter: str, kind: str, pairs: Path, brevity: str, tmp_path: Path) -> None:
    objective = {"kind": kind, "reward": brevity, "max_completion_length": 8}
    if kind == "grpo":
        objective["num_generations"] = 4
    # Few steps for a policy, so at a high rate; a soft prompt starts as noise, and gets twice as many at its own.
    steps, rate = (20, LEARNING_RATES[adapter]) if adapter == "prompt" else (10, 5 * LEARNING_RATES[adapter])
    folder = run(pairs, tmp_path / "run", adapter, objective, steps=steps, eval_every=steps, learning_rate=rate)
    events = [event for event in read_events(folder) if isinstance(event, StepEvent)]
    rewards = [event.measures["reward"] for event in events]
    third = steps // 3
    assert sum(rewards[-third:]) / third > sum(rewards[:third]) / third + 0.1
    if adapter != "prompt":  # a soft prompt says something before it has learned anything
        assert events[0].measures["kl"] == pytest.approx(0.0, abs=1e-5)
        assert events[-1].measures["kl"] > 0
    assert {"reward", "kl", "completions/mean_length", "answer_loss"} <= first_and_last(folder)[1].measures.keys()
