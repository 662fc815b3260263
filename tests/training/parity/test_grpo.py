"""GRPO against TRL 1.16: same weights, replies and advantages, fp32; loss and gradients of a step agree to 1e-5."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import make_model
from transformers import PreTrainedTokenizerBase

from tunesmith.models.adapters import attach
from tunesmith.models.load import load_tokenizer
from tunesmith.spec import AdapterSpec, GrpoSpec
from tunesmith.training.batches import Row, collate
from tunesmith.training.objectives.grpo import Grpo, Scored
from tunesmith.training.prompt import Prompt
from tunesmith.training.rollouts import Rollout
from tunesmith.training.token_loss import TokenLoss, token_logps

TOLERANCE = 1e-5
PROMPT, REPLIES, LONGEST = 5, 4, 9

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer("embedded")


def model_away_from_its_base(amount: float) -> torch.nn.Module:
    model = attach(make_model("llama"), AdapterSpec())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, amount, generator=generator)
    return model


def make_replies() -> list[Row]:
    numbers = np.random.default_rng(0)
    rows = []
    for _ in range(REPLIES):
        length = PROMPT + int(numbers.integers(3, LONGEST + 1))
        supervised = np.arange(length) >= PROMPT
        rows.append(Row(numbers.integers(3, 96, length).astype(np.int32), supervised))
    return rows


def grid(values: list[torch.Tensor]) -> torch.Tensor:
    """One padded row of values per reply, as TRL holds them."""
    return torch.nn.utils.rnn.pad_sequence(values, batch_first=True)


@pytest.mark.parametrize(
    ("loss_type", "beta", "num_iterations"),
    [("dapo", 0.0, 1), ("dapo", 0.04, 2), ("grpo", 0.04, 1), ("dr_grpo", 0.1, 2)],
)
def test_a_step_is_that_of_trl(
    loss_type: str, beta: float, num_iterations: int, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = make_replies()
    advantages = [0.9, -1.2, 0.4, -0.1]
    reference = token_logps(TokenLoss(model_away_from_its_base(0.0)), rows)
    before = token_logps(TokenLoss(model_away_from_its_base(0.05)), rows) if num_iterations > 1 else [None] * REPLIES

    model, other = model_away_from_its_base(0.06), model_away_from_its_base(0.06)
    spec = GrpoSpec(
        reward="unused:here", loss_type=loss_type, beta=beta, num_iterations=num_iterations,
        max_completion_length=LONGEST, num_generations=REPLIES,
    )  # fmt: skip
    grpo = Grpo(spec, SimpleNamespace(), TokenLoss(model))
    scored = [
        Scored(Rollout(row, 0.0, True, known), advantage, 0.0, old)
        for row, known, advantage, old in zip(rows, reference, advantages, before, strict=True)
    ]
    loss = grpo.loss(collate(scored)).total / grpo.weight(scored)
    loss.backward()

    trainer = trl.GRPOTrainer(
        model=other, reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
            per_device_train_batch_size=REPLIES, num_generations=REPLIES, max_completion_length=LONGEST,
            loss_type=loss_type, beta=beta, num_iterations=num_iterations,
        ),
        train_dataset=datasets.Dataset.from_dict({"prompt": ["one"] * 4}), processing_class=tokenizer,
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    replies = [torch.from_numpy(row.tokens[PROMPT:].astype(np.int64)) for row in rows]
    inputs = {
        "prompt_ids": torch.from_numpy(np.stack([row.tokens[:PROMPT] for row in rows]).astype(np.int64)),
        "prompt_mask": torch.ones(REPLIES, PROMPT, dtype=torch.long),
        "completion_ids": grid(replies),
        "completion_mask": grid([torch.ones_like(reply) for reply in replies]),
        "advantages": torch.tensor(advantages),
        "num_items_in_batch": torch.tensor(float(sum(map(len, replies)))),
        "ref_per_token_logps": grid(reference),
    }
    if num_iterations > 1:
        inputs["old_per_token_logps"] = grid(before)
    expected = trainer._compute_loss(other, inputs)
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=TOLERANCE, abs=1e-7)
    theirs = {name: value.grad for name, value in other.named_parameters() if value.grad is not None}
    for name, value in model.named_parameters():
        if value.requires_grad:
            scale = max(float(theirs[name].abs().max()), 1e-6)
            torch.testing.assert_close(value.grad, theirs[name], rtol=0, atol=TOLERANCE * scale, msg=name)


class Told:
    """A policy whose replies and rewards are given."""

    def __init__(self, rewards: list[float]) -> None:
        self._rewards = rewards

    def rollouts(self, prompts: list[Prompt], seed: int, *, each: int) -> list[Rollout]:
        row = make_replies()[0]
        return [Rollout(row, reward, True, torch.zeros(len(row.tokens) - PROMPT)) for reward in self._rewards]


@pytest.mark.parametrize("scale_rewards", ["group", "none"])
def test_advantages_are_rewards_against_their_groups(scale_rewards: str) -> None:
    rewards = [1.0, 2.0, 6.0, 5.0, 5.0, 5.0]
    spec = GrpoSpec(reward="unused:here", num_generations=3, scale_rewards=scale_rewards)
    scored = Grpo(spec, Told(rewards), TokenLoss(make_model())).prepare([], 0)
    groups = torch.tensor(rewards).view(2, 3)
    expected = groups - groups.mean(1, keepdim=True)
    if scale_rewards == "group":
        expected = expected / (groups.std(1, keepdim=True) + 1e-4)
    assert [example.advantage for example in scored] == pytest.approx(expected.flatten().tolist())
