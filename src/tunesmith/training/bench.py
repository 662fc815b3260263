"""How fast training is here, and beside TRL: the same rows, the same model, processes that take turns.

Each measurement is a process of its own (its peak memory is then only its own), and engines take turns so that a busy
machine slows them alike; still, the ratios mean more than the rates. The model is a Llama shape with random weights,
made on the spot: speed does not depend on what a model knows.
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tunesmith.errors import SpecError, TrainingError
from tunesmith.settings import load_settings

RANK = 16

SHAPE = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
"""SmolLM2-135M's (https://huggingface.co/HuggingFaceTB/SmolLM2-135M, config.json)."""

LARGE_SHAPE = {
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
"""Llama-3.2-1B's (https://huggingface.co/meta-llama/Llama-3.2-1B, config.json): enough work for a GPU."""


class Work(Struct, frozen=True):
    """Training steps for one engine. Rows are `shared` common tokens and then `shortest` to `longest` of their own.

    With `dpo` each step has `batch_size` pairs: prompts and replies are then half as long as rows.
    """

    engine: Literal["tunesmith", "trl"]
    model: str
    adapter: Literal["lora", "full"] = "lora"
    objective: Literal["sft", "dpo"] = "sft"
    shared: int = 0
    shortest: int = 64
    longest: int = 512
    batch_size: int = 16
    steps: int = 2
    vocabulary: int = 49152
    threads: int = 2
    group_by_length: bool = False
    settings: dict[str, Any] = {}


class Measured(Struct, frozen=True):
    """Per step: seconds, tokens and supervised tokens, warm-up left out; and the process's peak memory in bytes.

    `ceiling` is the operations a second of one large matrix product in the precision that is fastest here, measured
    afterwards.
    """

    seconds: list[float]
    tokens: list[int]
    supervised: list[int]
    peak_bytes: int
    ceiling: float


class Line(Struct, frozen=True):
    """One engine on one case. `ceiling_share` counts 4 operations per frozen matrix weight and token (see `_share`)."""

    case: str
    engine: str
    tokens_per_second: float
    seconds_per_step: float
    peak_bytes: int
    ceiling_share: float | None
    ceiling_flops: float
    times_faster: float | None
    """How many times as fast as this line Tunesmith is, as the median over the rounds; None for Tunesmith's own."""


class BenchResult(Struct, frozen=True):
    """All lines, and with what they were made."""

    lines: list[Line]
    threads: int
    rounds: int
    steps: int
    versions: dict[str, str]


CASES: dict[str, dict[str, Any]] = {
    "sft": {},
    "shared": {"shared": 512, "shortest": 64, "longest": 128},
    "dpo": {"objective": "dpo", "batch_size": 8},
    "full": {"adapter": "full"},
}
"""`sft`: rows of mixed lengths; `shared`: rows behind one 512-token system prompt; `dpo`: pairs, the reference's pass
over them included; `full`: all parameters learn."""

IN_FP32: dict[str, Any] = {"bf16": False, "model_init_kwargs": {"dtype": "float32"}}

BF16: dict[str, Any] = {"bf16": True, "model_init_kwargs": {"dtype": "bfloat16"}}

TRL_TUNED: dict[str, dict[str, Any]] = {
    "fp32": IN_FP32 | {"per_device_train_batch_size": 4},
    "bf16": BF16 | {"per_device_train_batch_size": 4},
    "bf16 autocast": {"bf16": True, "model_init_kwargs": {"dtype": "float32"}, "per_device_train_batch_size": 4},
    "fp32, chunked loss": IN_FP32 | {"per_device_train_batch_size": 4, "loss_type": "chunked_nll"},
}
"""What a person can turn on in TRL for speed on a CPU, each without checkpointing and with rows grouped by length.

The other cases are compared with TRL's defaults only."""

TRL_TUNED_ON_A_GPU: dict[str, dict[str, Any]] = {
    "bf16": BF16 | {"per_device_train_batch_size": 16},
    "bf16, Liger": BF16 | {"per_device_train_batch_size": 16, "use_liger_kernel": True},
}
"""The same on a GPU; Liger Kernel (https://arxiv.org/abs/2410.10989) where it is installed."""


def bench(
    *,
    against: str | None = None,
    cases: Sequence[str] = tuple(CASES),
    steps: int = 2,
    rounds: int = 2,
    shape: dict[str, Any] = SHAPE,
    observer: Callable[[str], None] | None = None,
) -> BenchResult:
    """Measure `steps` optimizer steps of 16 rows, `rounds` times, on each of `cases`; `against` trl: beside it.

    Raises SpecError for an unknown case or peer, TrainingError when a measurement's process fails.
    """
    _check(against, cases)
    with tempfile.TemporaryDirectory(prefix="tunesmith-bench-") as folder:
        matrices = _write_model(Path(folder), shape)
        lines = []
        for case in cases:
            threads = load_settings().threads
            work = Work("tunesmith", folder, steps=steps, vocabulary=shape["vocab_size"], threads=threads)
            work = replace(work, **CASES[case])
            engines = {"Tunesmith": work} | (_trl(work) if against == "trl" else {})
            measured: dict[str, list[Measured]] = {name: [] for name in engines}
            for number in range(rounds):
                for name, engine in engines.items():
                    if observer is not None:
                        observer(f"{case}, round {number + 1} of {rounds}: {name}")
                    measured[name].append(_measure(engine))
                    if observer is not None:
                        observer(f"{case}, round {number + 1} of {rounds}: {name}: {_said(measured[name][-1])}")
            lines += [_line(case, name, measured, matrices) for name in engines]
    return BenchResult(lines, load_settings().threads, rounds, steps, _versions(against))


def _check(against: str | None, cases: Sequence[str]) -> None:
    if against not in (None, "trl"):
        raise SpecError(f"--against {against}: not a known peer; use trl")
    for case in cases:
        if case not in CASES:
            raise SpecError(f"--case {case}: not a known case; use {', '.join(CASES)}")
    if against == "trl":
        import importlib.util

        if importlib.util.find_spec("trl") is None:
            raise SpecError("--against trl: TRL is not installed; pip install 'tunesmith[trl]'")


def _write_model(folder: Path, shape: dict[str, Any]) -> dict[str, int]:
    """A model folder of random weights with the embedded tokenizer; returns the weights of its matrices."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tunesmith.models.load import EMBEDDED, load_tokenizer
    from tunesmith.models.quiet import quiet

    torch.manual_seed(0)
    with quiet(), torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model: Any = LlamaForCausalLM(LlamaConfig(**shape))
        model.to(torch.bfloat16)  # as most models are kept
        model.save_pretrained(folder)
    load_tokenizer(EMBEDDED).save_pretrained(folder)
    layers = [module for name, module in model.named_modules() if "proj" in name and hasattr(module, "weight")]
    return {"layers": sum(module.weight.numel() for module in layers), "head": model.lm_head.weight.numel()}


def _trl(work: Work) -> dict[str, Work]:
    """TRL's default is bf16; where that is emulated, it takes many times as long as fp32, which nobody waits for."""
    from importlib.util import find_spec

    from accelerate import PartialState

    from tunesmith.training.precision import multiplies_bf16_fast

    device = PartialState().device
    bf16 = multiplies_bf16_fast(device)
    settings_tried = TRL_TUNED if device.type == "cpu" else TRL_TUNED_ON_A_GPU
    name, settings = ("default settings", {}) if bf16 else ("default settings in fp32", IN_FP32)
    default = {f"TRL, {name}": replace(work, engine="trl", settings=settings)}
    if work.adapter == "full" or work.objective == "dpo" or work.shared:
        return default
    tuned = {"gradient_checkpointing": False}
    return default | {
        f"TRL, {name}, no checkpointing, grouped by length": replace(
            work, engine="trl", group_by_length=True, settings=tuned | settings
        )
        for name, settings in settings_tried.items()
        if (bf16 or not settings["bf16"]) and ("use_liger_kernel" not in settings or find_spec("liger_kernel"))
    }


def _measure(work: Work) -> Measured:
    process = subprocess.run(
        [sys.executable, "-m", "tunesmith.training.bench_worker"],
        input=msgspec.json.encode(work),
        capture_output=True,
        check=False,
    )
    lines = process.stdout.splitlines()
    if process.returncode != 0 or not lines:
        last = process.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise TrainingError(f"bench: {work.engine} failed: {' '.join(last) or f'exit {process.returncode}'}")
    return msgspec.json.decode(lines[-1], type=Measured)


def _line(case: str, name: str, measured: dict[str, list[Measured]], matrices: dict[str, int]) -> Line:
    runs = measured[name]
    seconds = [second for run in runs for second in run.seconds]
    ceiling = max(run.ceiling for run in runs)
    ours = measured["Tunesmith"]
    ratios = [_rate(mine) / _rate(theirs) for mine, theirs in zip(ours, runs, strict=True)]
    return Line(
        case=case,
        engine=name,
        tokens_per_second=statistics.median(_rate(run) for run in runs),
        seconds_per_step=statistics.median(seconds),
        peak_bytes=max(run.peak_bytes for run in runs),
        ceiling_share=None if case in ("full", "dpo") else statistics.median(_share(run, matrices) for run in runs),
        ceiling_flops=ceiling,
        times_faster=None if name == "Tunesmith" else statistics.median(ratios),
    )


def _said(run: Measured) -> str:
    return f"{_rate(run):,.0f} tokens/s, {run.peak_bytes / 2**30:.2f} GiB"


def _rate(run: Measured) -> float:
    return sum(run.tokens) / sum(run.seconds)


def _share(run: Measured, matrices: dict[str, int]) -> float:
    """Of the matrix ceiling: 4 operations per frozen matrix weight and token.

    Two for the forward product and two for the input's gradient, per token in the layers and per supervised token in
    the head. A token that is shared counts in every row that it belongs to: it is work that was asked for.
    """
    work = 4 * (matrices["layers"] * sum(run.tokens) + matrices["head"] * sum(run.supervised))
    return work / sum(run.seconds) / run.ceiling


def _versions(against: str | None) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft", *([against] if against else []))}
