"""GRPO against TRL 1.16: same weights, replies and advantages, fp32; loss and gradients of a step agree to 1e-5."""

import math
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


def logps_of(amount: float, rows: list[Row], temperature: float) -> list[torch.Tensor]:
    """Of the rows' tokens by the model so far from its base."""
    return token_logps(TokenLoss(model_away_from_its_base(amount), temperature=temperature), rows)


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
    ("options", "sampled_elsewhere"),
    [
        ({"loss_type": "dapo"}, False),
        ({"loss_type": "dapo", "beta": 0.04, "num_iterations": 2, "epsilon": 0.05, "epsilon_high": 0.02}, False),
        ({"loss_type": "bnpo", "beta": 0.04}, False),
        ({"loss_type": "grpo", "beta": 0.04}, False),
        ({"loss_type": "grpo", "beta": 0.04, "num_iterations": 2, "importance_sampling_level": "sequence"}, False),
        ({"loss_type": "dr_grpo", "beta": 0.1, "num_iterations": 2}, False),
        ({"loss_type": "dapo", "beta": 0.04, "mask_truncated_completions": True}, False),
        ({"loss_type": "grpo", "beta": 0.04, "mask_truncated_completions": True}, False),
        ({"loss_type": "dapo", "beta": 0.04, "temperature": 0.7}, False),
        ({"loss_type": "grpo", "beta": 0.04, "num_iterations": 2, "temperature": 0.7}, False),
        ({"loss_type": "dapo", "beta": 0.04, "temperature": 0.7}, True),
        ({"loss_type": "dapo", "beta": 0.04}, True),
        ({"loss_type": "grpo", "beta": 0.04, "num_iterations": 2}, True),
    ],
    ids=lambda value: "elsewhere" if value is True else "-".join(map(str, value.values())) if value else "here",
)
def test_a_step_is_that_of_trl(
    options: dict[str, Any], sampled_elsewhere: bool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    several, masked = "num_iterations" in options, "mask_truncated_completions" in options
    rows = make_replies()
    advantages = [0.9, -1.2, 0.4, -0.1]
    temperature = options.get("temperature", 1.0)
    reference = logps_of(0.0, rows, temperature)
    before = logps_of(0.05, rows, temperature) if several else [None] * REPLIES

    model, other = model_away_from_its_base(0.06), model_away_from_its_base(0.06)
    spec = GrpoSpec(reward="unused:here", max_completion_length=LONGEST, num_generations=REPLIES, **options)
    ended = [True, False, True, True]
    grpo = Grpo(spec, SimpleNamespace(), TokenLoss(model, temperature=temperature))
    now = before if several else logps_of(0.06, rows, temperature)
    drawn = [logps - torch.linspace(-1.0, 2.0, len(logps)) for logps in now]  # some weights are cut, some are not
    scored = [
        Scored(Rollout(row, 0.0, whole, known, drawn=by if sampled_elsewhere else None), advantage, 0.0, old)
        for row, whole, known, by, advantage, old in zip(rows, ended, reference, drawn, advantages, before, strict=True)
    ]
    loss = grpo.loss(collate(scored)).total / grpo.weight(scored)
    loss.backward()

    trainer = trl.GRPOTrainer(
        model=other, reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
            per_device_train_batch_size=REPLIES, num_generations=REPLIES, max_completion_length=LONGEST,
            **options,
        ),
        train_dataset=datasets.Dataset.from_dict({"prompt": ["one"] * 4}), processing_class=tokenizer,
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    replies = [torch.from_numpy(row.tokens[PROMPT:].astype(np.int64)) for row in rows]
    learned = [torch.full_like(reply, whole or not masked) for reply, whole in zip(replies, ended, strict=True)]
    inputs = {
        "prompt_ids": torch.from_numpy(np.stack([row.tokens[:PROMPT] for row in rows]).astype(np.int64)),
        "prompt_mask": torch.ones(REPLIES, PROMPT, dtype=torch.long),
        "completion_ids": grid(replies),
        "completion_mask": grid(learned),
        "advantages": torch.tensor(advantages),
        "num_items_in_batch": torch.tensor(float(sum(map(torch.sum, learned)))),
        "ref_per_token_logps": grid(reference),
    }
    if several:
        inputs["old_per_token_logps"] = grid(before)
    if sampled_elsewhere:  # as TRL has it of a vLLM, with vllm_importance_sampling_mode="token_truncate"
        trainer.use_vllm = True
        weights = [torch.exp(old - by) for old, by in zip(now, drawn, strict=True)]
        clip_max = trainer.vllm_importance_sampling_clip_max
        inputs["importance_sampling_ratio"] = grid([each.clamp(max=clip_max) for each in weights])
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


@pytest.mark.parametrize("rewards", [[1.0, 2.0, 6.0, 5.0, 5.0, 5.0], [1.0, nan, 6.0, nan, nan, 5.0], [nan] * 6])
@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_advantages_are_rewards_against_those_of_their_group_that_were_given(
    scale_rewards: str, rewards: list[float]
) -> None:
    spec = GrpoSpec(reward="unused:here", num_generations=3, scale_rewards=scale_rewards)
    grpo = Grpo(spec, Told(rewards), TokenLoss(make_model()))
    scored = grpo.prepare([], 0)
    groups = torch.tensor(rewards).view(2, 3)
    expected = groups - torch.nanmean(groups, 1, keepdim=True)
    if scale_rewards != "none":
        expected = expected / (trl.trainer.utils.nanstd(groups, 1 if scale_rewards == "group" else None, True) + 1e-4)
    assert [example.advantage for example in scored] == pytest.approx(torch.nan_to_num(expected).flatten().tolist())
    measures = grpo.loss(collate(scored)).measures
    given = groups[~groups.isnan()]
    assert measures["reward"].count == len(given)
    assert measures["reward"].total == pytest.approx(float(given.sum()))
    assert math.isfinite(measures["reward_std"].total)
