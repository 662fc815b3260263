"""One engine's training steps in a process of its own, which `bench` starts: its memory is then nobody else's.

Reads a `Work` as JSON from standard input and prints a `Measured` as the last line of standard output.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import torch

from tunesmith.training.batches import MICRO_BATCH_TOKENS, E, Example, Row
from tunesmith.training.bench import RANK, Measured, Work
from tunesmith.training.device_memory import GPU_TOKENS
from tunesmith.training.precision import multiplies_bf16_fast
from tunesmith.training.preference import Pair

CEILING_SIZE = 4096 if torch.cuda.is_available() else 2048
CEILING_TRIES = 10
"""The ceiling is the fastest of these products of two square matrices: what the machine can do, not what it did."""

LONG_RUN = 10_000
"""Steps of the run that the measured ones stand for."""


def main() -> None:
    """Do the work, say what it took."""
    work = msgspec.json.decode(sys.stdin.buffer.read(), type=Work)
    torch.set_num_threads(work.threads)
    run = _tunesmith if work.engine == "tunesmith" else _trl
    seconds, tokens, supervised = run(work)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    measured = Measured(seconds, tokens, supervised, peak, ceiling())
    sys.stdout.write("\n" + msgspec.json.encode(measured).decode() + "\n")


def ceiling() -> float:
    """Floating-point operations a second that the device reaches in one large matrix product.

    In bf16 where the device has instructions for it; emulated, the product takes minutes.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if multiplies_bf16_fast(device) else torch.float32
    matrix = torch.randn(CEILING_SIZE, CEILING_SIZE, device=device, dtype=dtype)
    fastest = float("inf")
    for _ in range(CEILING_TRIES):
        started = _now()
        torch.mm(matrix, matrix)
        fastest = min(fastest, _now() - started)
    return 2 * CEILING_SIZE**3 / fastest


def _now() -> float:
    """Seconds, when all that a GPU was asked for is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def make_rows(work: Work) -> list[Row]:
    """Seeded random tokens: `shared` at the head of every row, then `shortest` to `longest` of its own."""
    numbers = np.random.default_rng(0)
    head = numbers.integers(3, work.vocabulary, work.shared)
    rows = []
    for _ in range(work.batch_size * (work.steps + 1)):
        own = int(numbers.integers(work.shortest, work.longest + 1))
        tokens = np.concatenate([head, numbers.integers(3, work.vocabulary, own)]).astype(np.int32)
        supervised = np.zeros(len(tokens), dtype=np.bool_)
        supervised[work.shared + own // 2 :] = True  # the reply: the second half of what is the row's own
        rows.append(Row(tokens, supervised))
    return rows


def make_pairs(work: Work) -> list[Pair]:
    """Seeded random tokens: prompts, and two replies to each, all of `shortest` to `longest` tokens halved."""
    numbers = np.random.default_rng(0)

    def some() -> list[int]:
        length = int(numbers.integers(work.shortest, work.longest + 1)) // 2
        tokens: list[int] = numbers.integers(3, work.vocabulary, length).tolist()
        return tokens

    def row(prompt: list[int], reply: list[int]) -> Row:
        return Row(np.array(prompt + reply, np.int32), np.arange(len(prompt) + len(reply)) >= len(prompt))

    pairs = []
    for _ in range(work.batch_size * (work.steps + 1)):
        prompt = some()
        pairs.append(Pair(row(prompt, some()), row(prompt, some())))
    return pairs


def _step(examples: Sequence[E], work: Work, step: int) -> list[E]:
    return list(examples[step * work.batch_size : (step + 1) * work.batch_size])


def _counts(examples: Sequence[Example], work: Work) -> tuple[list[int], list[int]]:
    steps = [
        [row for example in _step(examples, work, step) for row in example.rows] for step in range(1, work.steps + 1)
    ]
    return [sum(len(row.tokens) for row in part) for part in steps], [
        sum(row.targets for row in part) for part in steps
    ]


def _tunesmith(work: Work) -> tuple[list[float], list[int], list[int]]:
    from accelerate import PartialState

    from tunesmith.models.adapters import attach
    from tunesmith.models.load import load_model
    from tunesmith.spec import AdapterSpec
    from tunesmith.training.engine import Engine, make_optimizer
    from tunesmith.training.objectives.dpo import Dpo
    from tunesmith.training.objectives.sft import Sft
    from tunesmith.training.precision import use_bf16
    from tunesmith.training.reference import reference_logps

    examples: Sequence[Any] = make_pairs(work) if work.objective == "dpo" else make_rows(work)
    device = PartialState().device
    bf16 = use_bf16("auto", work.model, device)
    adapter = AdapterSpec(kind="full") if work.adapter == "full" else AdapterSpec(r=RANK, alpha=2 * RANK)
    dtype = torch.bfloat16 if bf16 and work.adapter != "full" else torch.float32  # as `train` does
    model = attach(load_model(work.model, dtype=dtype, device=device), adapter)
    engine = Engine(
        model,
        Dpo(model, loss_type="sigmoid", beta=0.1) if work.objective == "dpo" else Sft(model),
        make_optimizer(model, weight_decay=0.01),
        device=device,
        bf16=bf16,
        max_grad_norm=1.0,
        seed=0,
        micro_batch_tokens=MICRO_BATCH_TOKENS if device.type == "cpu" else GPU_TOKENS[0],
        planned_steps=LONG_RUN,
    )
    seconds = []
    for step in range(work.steps + 1):
        started = _now()
        part = _step(examples, work, step)
        if work.objective == "dpo":
            rows = [row for pair in part for row in pair.rows]
            logps = reference_logps(model, adapter, rows, bf16=bf16).view(-1, 2).tolist()
            part = [replace(pair, reference=tuple(known)) for pair, known in zip(part, logps, strict=True)]
        engine.step(part, step=step, learning_rate=1e-4)
        seconds.append(_now() - started)
    return seconds[1:], *_counts(examples, work)


def _trl(work: Work) -> tuple[list[float], list[int], list[int]]:
    import datasets
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback

    datasets.disable_progress_bars()
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            times.append(_now())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(_now())

    make_trainer, make_config, data, examples = _trl_pairs(work) if work.objective == "dpo" else _trl_rows(work)
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(
            output_dir=folder,
            max_steps=work.steps + 1,
            gradient_accumulation_steps=work.batch_size // int(work.settings.get("per_device_train_batch_size", 8)),
            train_sampling_strategy="sequential",  # the same rows in the same steps
            max_length=None,
            learning_rate=1e-4,
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
            **work.settings,
        )
        trainer = make_trainer(
            model=work.model,
            args=config,
            train_dataset=datasets.Dataset.from_dict(data),
            processing_class=AutoTokenizer.from_pretrained(work.model),
            peft_config=_lora(LoraConfig) if work.adapter == "lora" else None,
            callbacks=[Clock()],
        )
        trainer.train()
    seconds = [end - start for start, end in zip(times[::2], times[1::2], strict=True)]
    return seconds[1:], *_counts(examples, work)


def _trl_rows(work: Work) -> tuple[Any, Any, dict[str, list[list[int]]], Sequence[Example]]:
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows = make_rows(work)
    ordered = []
    for step in range(work.steps + 1):
        part = _step(rows, work, step)
        by_length = sorted(part, key=lambda row: len(row.tokens))
        ordered += by_length if work.group_by_length else part
    labels = [np.where(row.supervised, row.tokens, -100).tolist() for row in ordered]
    return SFTTrainer, SFTConfig, {"input_ids": [row.tokens.tolist() for row in ordered], "labels": labels}, rows


def _trl_pairs(work: Work) -> tuple[Any, Any, dict[str, list[list[int]]], Sequence[Example]]:
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    class Tokenized(DPOTrainer):
        """The same tokens as ours: made of text, they would not be."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    pairs = make_pairs(work)

    def part(row: Row, *, reply: bool) -> list[int]:
        tokens: list[int] = row.tokens[row.supervised == reply].tolist()
        return tokens

    data = {
        "prompt_ids": [part(pair.chosen, reply=False) for pair in pairs],
        "chosen_ids": [part(pair.chosen, reply=True) for pair in pairs],
        "rejected_ids": [part(pair.rejected, reply=True) for pair in pairs],
    }
    return Tokenized, DPOConfig, data, pairs


def _lora(config: Any) -> Any:
    return config(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")


if __name__ == "__main__":
    main()
