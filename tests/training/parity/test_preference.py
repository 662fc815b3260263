"""DPO, IPO, KTO, ORPO, SimPO and reward modelling against TRL 1.16: same weights and tokens, fp32.

The loss and every gradient of the first step agree to 1e-5 (relative; gradients against the largest of their tensor),
and 20 DPO steps follow the same curve.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny_models import make_model
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerBase

from tunesmith.models.adapters import attach
from tunesmith.models.load import load_tokenizer
from tunesmith.spec import AdapterSpec
from tunesmith.training.batches import Example, Row, collate, step_rows
from tunesmith.training.engine import Engine, make_optimizer
from tunesmith.training.objectives import Objective
from tunesmith.training.objectives.dpo import Dpo
from tunesmith.training.objectives.kto import Kto
from tunesmith.training.objectives.orpo import Orpo
from tunesmith.training.objectives.reward import Reward
from tunesmith.training.objectives.simpo import Simpo
from tunesmith.training.preference import Judged, Pair
from tunesmith.training.reference import reference_logps
from tunesmith.training.schedule import learning_rate

FIRST_STEP = 1e-5
CURVE = 2e-3  # 20 AdamW steps in fp32 spread rounding differences

STEPS = 20
BATCH = 4
PEAK = 5e-3

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

Batch = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer("embedded")


def policy() -> PeftModel:
    """A LoRA model that has already moved away from its base."""
    return moved(attach(make_model("llama"), AdapterSpec()))


def moved(model: PeftModel) -> PeftModel:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B.default" in name:
                parameter.normal_(0, 0.02, generator=generator)
    return model


def make_reply(numbers: np.random.Generator, prompt: np.ndarray) -> Row:
    reply = numbers.integers(3, 96, int(numbers.integers(3, 12)))
    supervised = np.zeros(len(prompt) + len(reply), np.bool_)
    supervised[len(prompt) :] = True
    return Row(np.concatenate([prompt, reply]).astype(np.int32), supervised)


def make_pairs(count: int) -> list[Pair]:
    numbers = np.random.default_rng(0)
    pairs = []
    for _ in range(count):
        prompt = numbers.integers(3, 96, int(numbers.integers(4, 14)))
        pairs.append(Pair(make_reply(numbers, prompt), make_reply(numbers, prompt)))
    return pairs


def with_reference(model: PeftModel, pairs: Sequence[Pair]) -> list[Pair]:
    rows = [row for pair in pairs for row in pair.rows]
    logps = iter(reference_logps(model, AdapterSpec(), rows, bf16=False).tolist())
    return [Pair(pair.chosen, pair.rejected, (next(logps), next(logps))) for pair in pairs]


def padded(rows: Sequence[Row], prefix: str = "") -> Batch:
    """TRL's batch of `rows`."""
    longest = max(len(row.tokens) for row in rows)
    batch = {name: torch.zeros(len(rows), longest, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    batch["completion_mask"] = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        size = len(row.tokens)
        batch["input_ids"][index, :size] = torch.from_numpy(row.tokens.astype(np.int64))
        batch["attention_mask"][index, :size] = 1
        batch["completion_mask"][index, :size] = torch.from_numpy(row.supervised.astype(np.int64))
    return {f"{prefix}{name}": value for name, value in batch.items()}


def ours(model: torch.nn.Module, objective: Objective, examples: Sequence[Example]) -> tuple[float, Batch]:
    examples = objective.prepare(examples, 0)
    loss = objective.loss(collate(examples)).total / objective.weight(examples)
    loss.backward()
    return loss.item(), gradients(model)


def theirs(model: torch.nn.Module, loss: torch.Tensor) -> tuple[float, Batch]:
    loss.backward()
    return loss.item(), gradients(model)


def gradients(model: torch.nn.Module) -> Batch:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def assert_same(found: tuple[float, Batch], expected: tuple[float, Batch]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=FIRST_STEP)
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        scale = max(float(value.abs().max()), 1e-6)
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=FIRST_STEP * scale, msg=name)


def config(kind: Callable[..., Any], folder: Path, **options: object) -> Any:
    return kind(
        output_dir=str(folder), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
        per_device_train_batch_size=BATCH, disable_tqdm=True, save_strategy="no", **options,
    )  # fmt: skip


def texts(count: int) -> Any:
    """A data set for a trainer's constructor; what is compared is given to its loss directly."""
    columns = {"prompt": ["one two"], "chosen": [" three"], "rejected": [" four five"]}
    return datasets.Dataset.from_dict({name: value * count for name, value in columns.items()})


@pytest.mark.parametrize("sft_weight", [0.0, 0.7])
@pytest.mark.parametrize(("loss_type", "beta"), [("sigmoid", 0.1), ("ipo", 0.2)])
def test_the_first_step_of_dpo_is_that_of_trl(
    loss_type: str, beta: float, sft_weight: float, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    pairs = make_pairs(6)
    model = policy()
    objective = Dpo(model, loss_type=loss_type, beta=beta, sft_weight=sft_weight)
    found = ours(model, objective, with_reference(model, pairs))

    mix = (
        {"loss_type": [loss_type, "sft"], "loss_weights": [1.0, sft_weight]}
        if sft_weight
        else {"loss_type": [loss_type]}
    )
    other = attach(make_model("llama"), AdapterSpec())  # TRL's reference is the adapter that its trainer is given
    trainer = trl.DPOTrainer(
        model=other, args=config(trl.DPOConfig, tmp_path, beta=beta, **mix),
        train_dataset=texts(4), processing_class=tokenizer,
    )  # fmt: skip
    batch = padded([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs])
    assert_same(found, theirs(other, trainer._compute_loss(moved(other), batch, return_outputs=False)))


def test_the_first_step_of_kto_is_that_of_trl(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    numbers = np.random.default_rng(3)
    prompts = [numbers.integers(3, 96, 6) for _ in range(6)]
    rows, mismatched = ([make_reply(numbers, prompt) for prompt in prompts] for _ in range(2))
    labels = [True, False, True, True, False, False]
    model = policy()
    reference = reference_logps(model, AdapterSpec(), [*rows, *mismatched], bf16=False).tolist()
    examples = [
        Judged(row, other, label, (reference[index], reference[index + 6]))
        for index, (row, other, label) in enumerate(zip(rows, mismatched, labels, strict=True))
    ]
    found = ours(model, Kto(model, beta=0.1, desirable_weight=1.5, undesirable_weight=0.5), examples)

    other = attach(make_model("llama"), AdapterSpec())
    columns = {"prompt": ["one"] * 4, "completion": [" two"] * 4, "label": [True, False] * 2}
    trainer = trl.KTOTrainer(
        model=other, args=config(trl.KTOConfig, tmp_path, desirable_weight=1.5, undesirable_weight=0.5),
        train_dataset=datasets.Dataset.from_dict(columns), processing_class=tokenizer,
    )  # fmt: skip
    batch = padded(rows) | padded(mismatched, "KL_") | {"label": torch.tensor(labels)}
    assert_same(found, theirs(other, trainer._compute_loss(moved(other), batch, return_outputs=False)))


def mean_logps(model: torch.nn.Module, rows: Sequence[Row]) -> torch.Tensor:
    """Mean log-probability of each row's supervised tokens, by transformers' own loss."""
    values = []
    for row in rows:
        tokens = torch.from_numpy(row.tokens.astype(np.int64))[None]
        labels = torch.from_numpy(np.where(row.supervised, row.tokens, -100).astype(np.int64))[None]
        values.append(-model(input_ids=tokens, labels=labels).loss)
    return torch.stack(values)


def test_the_first_step_of_orpo_is_the_papers_with_trls_odds_ratio() -> None:
    from trl.experimental.orpo import ORPOTrainer

    pairs = make_pairs(6)
    model, other = policy(), policy()
    found = ours(model, Orpo(model, beta=0.1), pairs)
    chosen, rejected = (mean_logps(other, [getattr(pair, name) for pair in pairs]) for name in ("chosen", "rejected"))
    stand_in = SimpleNamespace(beta=0.1, accelerator=SimpleNamespace(device="cpu"))
    penalty = ORPOTrainer.odds_ratio_loss(stand_in, chosen, rejected)[0]
    assert_same(found, theirs(other, -chosen.mean() - penalty.mean()))


def test_the_first_step_of_simpo_is_that_of_trl() -> None:
    from trl.experimental.cpo import CPOTrainer

    pairs = make_pairs(6)
    model, other = policy(), policy()
    found = ours(model, Simpo(model, beta=2.0, gamma=0.5), pairs)
    chosen, rejected = (mean_logps(other, [getattr(pair, name) for pair in pairs]) for name in ("chosen", "rejected"))
    stand_in = SimpleNamespace(
        alpha=0.0, beta=2.0, loss_type="simpo", simpo_gamma=0.5, label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    assert_same(found, theirs(other, CPOTrainer.cpo_loss(stand_in, chosen, rejected)[0].mean()))


def scorer() -> torch.nn.Module:
    torch.manual_seed(0)
    from tiny_models import SHAPE

    base = LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=1))
    return attach(base, AdapterSpec())


@pytest.mark.parametrize("center", [None, 0.05])
def test_the_first_step_of_a_reward_model_is_that_of_trl(
    center: float | None, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    pairs = make_pairs(6)
    model, other = scorer(), scorer()
    found = ours(model, Reward(model, center_rewards_coefficient=center), pairs)
    options = {"center_rewards_coefficient": center, "max_length": None}
    trainer = trl.RewardTrainer(
        model=other, args=config(trl.RewardConfig, tmp_path, **options), train_dataset=texts(4),
        processing_class=tokenizer,
    )  # fmt: skip
    batch = padded([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs])
    del batch["completion_mask"]
    batch["input_ids"][batch["attention_mask"] == 0] = other.config.pad_token_id  # how it finds the last token
    assert_same(found, theirs(other, trainer.compute_loss(other, batch)))


@pytest.mark.slow
def test_twenty_steps_of_dpo_follow_trls_curve(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    pairs = make_pairs(BATCH * 5)
    order = [i for step in range(STEPS) for i in step_rows(step, rows=len(pairs), batch_size=BATCH, seed=0)]
    other = attach(make_model("llama"), AdapterSpec())
    args = config(
        trl.DPOConfig, tmp_path, max_steps=STEPS, learning_rate=PEAK, lr_scheduler_type="cosine",
        warmup_steps=math.ceil(0.1 * STEPS), weight_decay=0.1, train_sampling_strategy="sequential", logging_steps=1,
        max_length=None, precompute_ref_log_probs=False,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model=other, args=args, train_dataset=texts(len(order)), processing_class=tokenizer
    )  # fmt: skip
    tokenized = [
        {
            "prompt_ids": pairs[i].chosen.tokens[~pairs[i].chosen.supervised].tolist(),
            "chosen_ids": pairs[i].chosen.tokens[pairs[i].chosen.supervised].tolist(),
            "rejected_ids": pairs[i].rejected.tokens[pairs[i].rejected.supervised].tolist(),
        }
        for i in order
    ]
    trainer.train_dataset = datasets.Dataset.from_list(tokenized)
    trainer.train()
    expected = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    model = attach(make_model("llama"), AdapterSpec())
    known = with_reference(model, pairs)
    engine = Engine(
        model, Dpo(model, loss_type="sigmoid", beta=0.1), make_optimizer(model, weight_decay=0.1),
        device=torch.device("cpu"), bf16=False, max_grad_norm=1.0, seed=0,
    )  # fmt: skip
    losses = []
    for step in range(STEPS):
        rate = learning_rate(step, total_steps=STEPS, peak=PEAK, warmup=0.1, scheduler="cosine")
        chosen = [known[index] for index in order[step * BATCH : (step + 1) * BATCH]]
        losses.append(engine.step(chosen, step=step, learning_rate=rate).loss)
    assert len(expected) == STEPS
    assert losses == pytest.approx(expected, abs=CURVE)
    assert losses[-1] < losses[0] - 0.2
