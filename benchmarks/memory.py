"""Predicted against measured peak memory of a training step, over a grid of shapes, methods and workloads.

    python benchmarks/memory.py [FAMILY …]

Measured: every allocation and release of PyTorch's CPU allocator during the second optimizer step (two micro-batches),
as its profiler records them, on top of weights and optimizer state. Beside it the analytic count of `tunesmith plan`,
the step traced on fake tensors, and the rule of thumb. Targets: analytic within 10%, traced within 3%, neither under
by more than 3%.
"""

import gc
import itertools
import sys
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tunesmith.models.adapters import attach
from tunesmith.planning.memory import Method, Workload, estimate, rule_of_thumb
from tunesmith.planning.shapes import shape_of
from tunesmith.spec import AdapterSpec
from tunesmith.training.memory_trace import trace_peak
from tunesmith.training.token_loss import TokenLoss

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 256, "intermediate_size": 704, "vocab_size": 4000, "tie_word_embeddings": False},
    "qwen2": {"hidden_size": 384, "intermediate_size": 1536, "vocab_size": 8000, "tie_word_embeddings": True},
    "qwen3": {"hidden_size": 256, "intermediate_size": 768, "vocab_size": 8000, "head_dim": 64},
    "phi3": {"hidden_size": 256, "intermediate_size": 704, "vocab_size": 6000, "pad_token_id": 0, "eos_token_id": 1},
}
COMMON = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 3,
    "max_position_embeddings": 1024,
}


@dataclass(frozen=True)
class Case:
    """One cell of the grid."""

    family: str
    method: Method
    work: Workload


def grid(families: list[str]) -> list[Case]:
    """Families × methods × precisions × micro-batches × checkpointing."""
    axes = itertools.product(families, ("lora", "full"), ("fp32", "bf16"), ((1, 64), (4, 192)), (False, True))
    return [
        Case(family, method, Workload(rows, length, 0.5, precision, 16, checkpointing))
        for family, method, precision, (rows, length), checkpointing in axes
    ]


def measured_peak(config: dict[str, Any], case: Case) -> int:
    """Bytes at the fullest moment of the second optimizer step."""
    bf16 = case.work.precision == "bf16"
    dtype = torch.bfloat16 if bf16 and case.method != "full" else torch.float32
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=dtype)
    model = attach(base, AdapterSpec(kind=case.method)).train()
    if case.work.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, fused=True)
    losses = TokenLoss(model)
    supervised = round(case.work.tokens * case.work.supervised_share)
    input_ids = torch.randint(0, config["vocab_size"], (case.work.rows, case.work.length))
    positions, targets = torch.arange(supervised), torch.randint(0, config["vocab_size"], (supervised,))

    def step() -> None:
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = losses(input_ids, positions, targets).sum() / supervised
            loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    gc.collect()
    state = [value for group in optimizer.state.values() for value in group.values() if torch.is_tensor(value)]
    held = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers(), *state)}
    total = peak = sum(tensor.untyped_storage().nbytes() for tensor in held.values())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


def main() -> None:
    """Print the grid, then the worst of each."""
    torch.set_num_threads(1)
    worst: dict[str, list[float]] = {"analytic": [], "exact": []}
    print(f"{'case':<38} {'measured':>9} {'analytic':>9} {'exact':>9} {'rule':>9}")
    for case in grid(sys.argv[1:] or list(SHAPES)):
        config = {"model_type": case.family, **COMMON, **SHAPES[case.family]}
        shape = shape_of(config, case.family)
        measured = measured_peak(config, case)
        analytic = estimate(shape, case.method, case.work).total / measured
        exact = trace_peak(config, AdapterSpec(kind=case.method), case.work) / measured
        rule = (rule_of_thumb(case.method, shape.parameters) or 0.0) * 1e9 / measured
        worst["analytic"].append(analytic)
        worst["exact"].append(exact)
        work = case.work
        name = f"{case.family} {case.method} {work.precision} {work.rows}x{work.length}" + " ckpt" * work.checkpointing
        print(f"{name:<38} {measured / 1e6:>7.1f}MB {analytic:>8.1%} {exact:>9.1%} {rule:>9.0%}", flush=True)
    for name, ratios in worst.items():
        print(f"{name}: {min(ratios):.1%} to {max(ratios):.1%} of the measured peak over {len(ratios)} cases")


if __name__ == "__main__":
    main()
