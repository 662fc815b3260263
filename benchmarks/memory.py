"""Predicted against measured peak memory of a training step, over a grid of shapes, methods and workloads.

    python benchmarks/memory.py [--write RESULTS.md]

Measured: every allocation and release of PyTorch's CPU allocator during the engine's second optimizer step (two
micro-batches), as its profiler records them, on top of weights and optimizer state. Beside it the analytic count of
`tunesmith plan`, the same step traced on fake tensors (`plan --exact`), and the rule of thumb. Targets: analytic
within 10%, traced within 3%, neither under by more than 3%.
"""

import argparse
import gc
import itertools
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.planning.memory import Method, Workload, estimate, rule_of_thumb
from tunesmith.planning.shapes import shape_of
from tunesmith.training.memory_trace import trace_peak
from tunesmith.training.sample_step import build_learner, sample_step

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

METHODS: tuple[Method, ...] = ("full", "lora", "qlora", "prefix", "prompt", "dpo", "grpo", "ppo")

ANALYTIC = (0.97, 1.10)
EXACT = (0.97, 1.03)
"""Of the measured peak: the least and the most that are still right."""


@dataclass(frozen=True)
class Case:
    """One cell of the grid."""

    family: str
    method: Method
    work: Workload

    @property
    def config(self) -> dict[str, Any]:
        """The model's config.json."""
        return {"model_type": self.family, **COMMON, **SHAPES[self.family]}

    def __str__(self) -> str:
        work = self.work
        size = f"{work.rows}x{work.length}"
        return f"{self.family} {self.method} {work.precision} {size}{' checkpointed' if work.checkpointing else ''}"


@dataclass(frozen=True)
class Outcome:
    """A case's measured peak in bytes, and what was predicted, as shares of it."""

    case: Case
    measured: int
    analytic: float
    exact: float
    rule: float | None


def grid(families: Iterable[str] = SHAPES, methods: Iterable[Method] = METHODS) -> list[Case]:
    """Families × methods × precisions × (micro-batch, sequence length) × checkpointing.

    Checkpointing throws away the cache that prefix tuning's keys are in, so transformers has no such step.
    """
    axes = itertools.product(families, methods, ("fp32", "bf16"), ((1, 64), (4, 192)), (False, True))
    return [
        Case(family, method, Workload(rows, length, 0.5, precision, 16, checkpointing, rollouts=8, device="cpu"))
        for family, method, precision, (rows, length), checkpointing in axes
        if not (checkpointing and method == "prefix")
    ]


def measured_peak(case: Case) -> int:
    """Bytes at the fullest moment of the second optimizer step."""
    torch.manual_seed(0)
    gc.collect()  # of the case before
    with _recorded() as before:
        learner = build_learner(case.config, case.method, case.work)
        step = sample_step(learner, case.method, case.work)
        step()  # from the second step on the optimizer has its state
        gc.collect()
    with _recorded() as during:
        step()
    return sum(before) + max(itertools.accumulate(during))


@contextmanager
def _recorded() -> Iterator[list[int]]:
    """Bytes that the allocator gave (and, negative, got back), in order; filled when the block ends."""
    changes: list[int] = []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        yield changes
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes += [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def compare(case: Case) -> Outcome:
    """Measure a case and predict it."""
    shape = shape_of(case.config, case.family)
    measured = measured_peak(case)
    rule = rule_of_thumb(case.method, shape.parameters)
    return Outcome(
        case,
        measured,
        analytic=estimate(shape, case.method, case.work).total / measured,
        exact=trace_peak(case.config, case.method, case.work) / measured,
        rule=None if rule is None else rule * 1e9 / measured,
    )


def main() -> None:
    """Print the grid, and write it with the worst of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--write", type=Path, help="a Markdown file for the results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    outcomes = []
    print(f"{'case':<40} {'measured':>9} {'analytic':>9} {'exact':>9} {'rule':>9}")
    for case in grid(arguments.families, arguments.methods):
        outcome = compare(case)
        outcomes.append(outcome)
        rule = "-" if outcome.rule is None else f"{outcome.rule:.0%}"
        marks = "".join(mark for mark, missed in zip("AE", _misses(outcome), strict=True) if missed)
        print(
            f"{case!s:<40} {outcome.measured / 1e6:>7.1f}MB {outcome.analytic:>8.1%} {outcome.exact:>9.1%} "
            f"{rule:>9} {marks}",
            flush=True,
        )
    print("\n".join(_summary(outcomes)))
    if arguments.write is not None:
        arguments.write.write_text(_markdown(outcomes), encoding="utf-8")


def _misses(outcome: Outcome) -> tuple[bool, bool]:
    return (
        not ANALYTIC[0] <= outcome.analytic <= ANALYTIC[1],
        not EXACT[0] <= outcome.exact <= EXACT[1],
    )


def _summary(outcomes: list[Outcome]) -> list[str]:
    lines = []
    for name, low, high in (("analytic", *ANALYTIC), ("exact", *EXACT)):
        shares = [getattr(outcome, name) for outcome in outcomes]
        right = sum(low <= share <= high for share in shares)
        lines.append(
            f"{name}: {min(shares):.1%} to {max(shares):.1%} of the measured peak, "
            f"{right} of {len(shares)} cases within {low:.0%} to {high:.0%}"
        )
    return lines


def _markdown(outcomes: list[Outcome]) -> str:
    import bitsandbytes
    import transformers

    head = f"""# Predicted against measured peak memory

`python benchmarks/memory.py --write benchmarks/results/memory.md`, torch {torch.__version__}, transformers \
{transformers.__version__}, bitsandbytes {bitsandbytes.__version__}, CPU allocator. What is measured is the engine's own
second optimizer step of two micro-batches. `analytic` is `tunesmith plan`'s count, `exact` is `--exact`'s trace of the
same step on fake tensors, `rule` the field's rule of thumb; all as shares of the measured peak. Right is 97% to 110%
for analytic and 97% to 103% for exact; misses are marked. GRPO and PPO sample 8 replies a step; PPO holds a reward
model. FSDP over several GPUs was not measured. Prefix tuning has no checkpointed step.

"""
    rows = ["| case | measured | analytic | exact | rule |", "| --- | ---: | ---: | ---: | ---: |"]
    for outcome in outcomes:
        missed = _misses(outcome)
        analytic, exact = (
            f"{share:.1%}{' (miss)' if miss else ''}"
            for share, miss in zip((outcome.analytic, outcome.exact), missed, strict=True)
        )
        rule = "" if outcome.rule is None else f"{outcome.rule:.0%}"
        rows.append(f"| {outcome.case} | {outcome.measured / 1e6:.1f} MB | {analytic} | {exact} | {rule} |")
    return head + "\n".join([f"* {line}" for line in _summary(outcomes)] + ["", *rows, ""])


if __name__ == "__main__":
    main()
