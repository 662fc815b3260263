"""Every adapter with every objective on the embedded model: its own measure improves, or it is refused at once."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from test_train import make_spec, read_events

from tunesmith.errors import SpecError
from tunesmith.evaluation import generate
from tunesmith.models.load import load_reward_model, load_tuned
from tunesmith.training import rollouts
from tunesmith.training.events import EvalEvent, StepEvent
from tunesmith.training.run import train

ADAPTERS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora"},
    "qlora": {"kind": "qlora"},
    "prefix": {"kind": "prefix", "virtual_tokens": 4},
    "prompt": {"kind": "prompt", "virtual_tokens": 4},
}

OPTIONS: dict[str, dict[str, Any]] = {
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "gaussian": {"init": "gaussian"},
    "orthogonal": {"init": "orthogonal"},
    "olora": {"init": "olora"},
    "pissa": {"init": "pissa_niter_4"},
}
"""LoRA's: with one objective for each way in which a model is used."""

LEARNING_RATES = {"full": 1e-4, "prefix": 0.2, "prompt": 0.02}
"""Soft tokens need high rates, full fine-tuning low ones; LoRA 0.002."""


class Objective(NamedTuple):
    """What is in the spec, the fixture with its rows, and what must grow by `gain`: `more` (less `less`)."""

    spec: dict[str, Any]
    rows: str
    more: str
    gain: float
    less: str | None = None


def dpo(loss_type: str, gain: float) -> Objective:
    return Objective({"kind": "dpo", "loss_type": loss_type}, "few_pairs", "rewards/margins", gain)


def online(kind: str, **options: int) -> Objective:
    spec = {"kind": kind, "reward": "agreement.py:reward", "max_completion_length": 2} | options
    return Objective(spec, "one_question", "reward", 0.2)


OBJECTIVES = {
    "sft": Objective({"kind": "sft"}, "few_pairs", "-loss", 0.1),
    "dpo": dpo("sigmoid", 0.1),
    "ipo": dpo("ipo", 0.1),
    "orpo": dpo("orpo", 0.005),
    "simpo": dpo("simpo", 0.005),
    "kto": Objective(
        {"kind": "dpo", "loss_type": "kto"}, "few_judged", "rewards/chosen", 0.05, less="rewards/rejected"
    ),
    "reward": Objective({"kind": "reward"}, "few_pairs", "margin", 0.1),
    "grpo": online("grpo", num_generations=8),
    "ppo": online("ppo", num_ppo_epochs=2),
}

SENSELESS = {
    **{(soft, "reward"): "cannot carry a reward model: its new head must learn" for soft in ("prefix", "prompt")},
    **{
        (taking, "grpo"): "takes a part of the base's weights, and grpo needs the base" for taking in ("olora", "pissa")
    },
}

CASES = [
    *((adapter, objective) for adapter in ADAPTERS for objective in OBJECTIVES),
    *((option, objective) for option in OPTIONS for objective in ("sft", "dpo", "reward", "grpo")),
]


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_a_policy_draws_learns_and_is_compared_at_its_temperature(
    adapter: str, kind: str, one_question: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []

    def sample(*what: Any, **how: Any) -> list[list[int]]:
        drawn.append(how["temperature"])
        return generate.sample(*what, **how)

    monkeypatch.setattr(rollouts, "sample", sample)
    objective = {"kind": kind, "reward": "agreement.py:reward", "max_completion_length": 2, "temperature": 0.7}
    training = {"steps": 1, "epochs": None, "batch_size": 2, "max_length": 96}
    spec = make_spec(one_question, tmp_path / "run", adapter={"kind": adapter}, objective=objective, training=training)
    events = read_events(train(spec).run)
    (step,) = (event for event in events if isinstance(event, StepEvent))
    assert set(drawn) == {0.7}
    assert step.measures["kl"] == pytest.approx(0.0, abs=1e-5)


@pytest.fixture
def few_pairs(pairs: Path) -> Path:
    pairs.write_text("".join(pairs.read_text().splitlines(keepends=True)[:8]))
    return pairs


@pytest.fixture
def few_judged(few_pairs: Path, judged: Path) -> Path:
    return judged


@pytest.mark.parametrize(
    ("adapter", "name"),
    [
        pytest.param(*case, marks=() if "lora" in case or "sft" in case else pytest.mark.slow)
        for case in CASES
        if case not in SENSELESS
    ],
)
def test_the_objectives_own_measure_improves(
    adapter: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if adapter == "qlora":
        pytest.importorskip("bitsandbytes")
    objective = OBJECTIVES[name]
    rows = request.getfixturevalue(objective.rows)
    training = {
        "steps": 3, "epochs": None, "batch_size": 4 if name == "grpo" else 16, "max_length": 96, "eval_every": 3,
        "learning_rate": LEARNING_RATES.get(adapter, 2e-3), "scheduler": "constant", "warmup": 0.0,
    }  # fmt: skip
    run = train(
        make_spec(rows, tmp_path / "run", data={"eval": str(rows)}, training=training, **method(adapter, name))
    ).run

    events = read_events(run)
    before, after = (event for event in events if isinstance(event, EvalEvent))

    def value(event: EvalEvent) -> float:
        seen = event.measures | {"-loss": -event.loss}
        return seen[objective.more] - (seen[objective.less] if objective.less else 0.0)

    assert value(after) > value(before) + objective.gain
    assert after.loss < before.loss
    if name in ("grpo", "ppo"):
        steps = [event.measures for event in events if isinstance(event, StepEvent)]
        assert {"reward", "kl", "completions/mean_length"} <= steps[0].keys()
        assert {"reward", "kl", "completions/mean_length", "answer_loss"} <= after.measures.keys()
        assert adapter in ("prefix", "prompt") or steps[0]["kl"] == pytest.approx(0.0, abs=1e-5)
        assert after.measures["kl"] > 0
    load = load_reward_model if name == "reward" else load_tuned
    assert load(run, dtype=torch.float32) is not None


@pytest.mark.parametrize(("adapter", "name"), SENSELESS)
def test_a_pair_without_sense_is_refused_when_the_spec_is_read(adapter: str, name: str) -> None:
    with pytest.raises(SpecError, match=SENSELESS[adapter, name]):
        make_spec(Path("rows.jsonl"), Path("run"), **method(adapter, name))


def method(adapter: str, name: str) -> dict[str, Any]:
    """The sections of the spec that a pair is made of."""
    return {
        "adapter": ADAPTERS.get(adapter, {"kind": "lora"}) | OPTIONS.get(adapter, {}),
        "objective": OBJECTIVES[name].spec,
    }
