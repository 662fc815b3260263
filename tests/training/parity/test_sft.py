"""The same spec in TRL's SFTTrainer and in this engine: the same losses, step by step (trl 1.16, fp32)."""

import math
from pathlib import Path

import pytest
import torch
from tiny_models import make_model, make_rows
from transformers import PreTrainedTokenizerBase

from tunesmith.models.adapters import attach
from tunesmith.models.load import load_tokenizer
from tunesmith.spec import AdapterSpec, TrainingSpec
from tunesmith.training.batches import Row, collate, step_rows
from tunesmith.training.engine import Engine, make_optimizer
from tunesmith.training.objectives.sft import Sft
from tunesmith.training.schedule import learning_rate

FIRST_STEP = 1e-4
CURVE = 2e-3  # 20 AdamW steps in fp32 spread rounding differences; noise between seeds is a hundred times this

STEPS = 20
BATCH = 8
SPEC = TrainingSpec(steps=STEPS, batch_size=BATCH, learning_rate=5e-3, warmup=0.1, weight_decay=0.1)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer("embedded")


def ours(model: torch.nn.Module, rows: list[Row]) -> list[float]:
    engine = Engine(
        model,
        Sft(model),
        make_optimizer(model, weight_decay=SPEC.weight_decay),
        device=torch.device("cpu"),
        bf16=False,
        max_grad_norm=SPEC.max_grad_norm,
        seed=0,
    )
    losses = []
    for step in range(STEPS):
        rate = learning_rate(
            step, total_steps=STEPS, peak=SPEC.learning_rate, warmup=SPEC.warmup, scheduler=SPEC.scheduler
        )
        chosen = [rows[index] for index in step_rows(step, rows=len(rows), batch_size=BATCH, seed=0)]
        losses.append(engine.step(chosen, step=step, learning_rate=rate).loss)
    return losses


def theirs(model: torch.nn.Module, rows: list[Row], tokenizer: PreTrainedTokenizerBase, folder: Path) -> list[float]:
    """TRL on the same rows in the same order, two rows a pass and four passes a step."""
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    order = [rows[i] for step in range(STEPS) for i in step_rows(step, rows=len(rows), batch_size=BATCH, seed=0)]
    labels = [
        [int(token) if target else -100 for token, target in zip(row.tokens, row.supervised, strict=True)]
        for row in order
    ]
    data = datasets.Dataset.from_dict({"input_ids": [row.tokens.tolist() for row in order], "labels": labels})
    config = trl.SFTConfig(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=BATCH // 2,
        learning_rate=SPEC.learning_rate,
        lr_scheduler_type=SPEC.scheduler,
        warmup_steps=math.ceil(SPEC.warmup * STEPS),
        weight_decay=SPEC.weight_decay,
        max_grad_norm=SPEC.max_grad_norm,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = trl.SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_loss_curve_is_that_of_trl(kind: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    rows = make_rows(BATCH * 5)
    adapter = AdapterSpec(kind=kind)
    expected = theirs(attach(make_model("llama"), adapter), rows, tokenizer, tmp_path)
    losses = ours(attach(make_model("llama"), adapter), rows)
    assert len(losses) == len(expected) == STEPS
    assert losses[0] == pytest.approx(expected[0], abs=FIRST_STEP)
    assert losses == pytest.approx(expected, abs=CURVE)
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_first_loss_and_its_gradients_are_those_of_trl(
    kind: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    rows = make_rows(6)
    ours, theirs = (attach(make_model("llama"), AdapterSpec(kind=kind)) for _ in range(2))
    sft = Sft(ours)
    loss = sft.loss(collate(rows)).total / sft.weight(rows)
    loss.backward()

    config = trl.SFTConfig(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False
    )
    data = datasets.Dataset.from_dict({"input_ids": [[3, 4, 5]] * 2, "labels": [[3, 4, 5]] * 2})
    trainer = trl.SFTTrainer(model=theirs, args=config, train_dataset=data, processing_class=tokenizer)
    longest = max(len(row.tokens) for row in rows)
    inputs = {
        "input_ids": torch.zeros(len(rows), longest, dtype=torch.long),
        "attention_mask": torch.zeros(len(rows), longest, dtype=torch.long),
        "labels": torch.full((len(rows), longest), -100),
    }
    for index, row in enumerate(rows):
        tokens = torch.from_numpy(row.tokens.astype("int64"))
        inputs["input_ids"][index, : len(tokens)] = tokens
        inputs["attention_mask"][index, : len(tokens)] = 1
        inputs["labels"][index, : len(tokens)] = torch.where(torch.from_numpy(row.supervised), tokens, -100)
    expected = trainer.compute_loss(theirs, inputs)
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = {name: value.grad for name, value in theirs.named_parameters() if value.grad is not None}
    assert gradients
    for name, value in ours.named_parameters():
        if name in gradients:
            scale = max(float(gradients[name].abs().max()), 1e-6)
            torch.testing.assert_close(value.grad, gradients[name], rtol=0, atol=1e-5 * scale, msg=name)
