"""Against what PyTorch's CPU allocator gave for the engine's own steps (torch 2.13, transformers 5, bitsandbytes 0.50).

`benchmarks.memory` runs the whole grid; here is one case of each method, tracing and counting.
"""

import pytest
from benchmarks.memory import ANALYTIC, EXACT, compare
from benchmarks.memory_grid import METHODS, Case

from tunesmith.errors import ModelError
from tunesmith.planning.workload import Method, Workload
from tunesmith.training.memory_trace import trace_peak


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_peak_of_every_method_is_foretold(method: Method) -> None:
    work = Workload(2, 64, precision="bf16", checkpointing=method == "full", rollouts=8, device="cpu")
    outcome = compare(Case("llama", method, work))
    assert ANALYTIC[0] <= outcome.analytic <= ANALYTIC[1]
    assert EXACT[0] <= outcome.exact <= EXACT[1]


@pytest.mark.slow
def test_many_replies_to_long_prompts_are_fullest_when_the_prompts_are_read() -> None:
    outcome = compare(Case("llama", "grpo", Workload(1, 128, 0.1, "bf16", rollouts=16, device="cpu")))
    assert ANALYTIC[0] <= outcome.analytic <= ANALYTIC[1]
    assert EXACT[0] <= outcome.exact <= EXACT[1]


@pytest.mark.slow
def test_two_gradients_of_one_matrix_are_summed_as_autograd_sums_them() -> None:
    outcome = compare(Case("qwen2", "full", Workload(1, 16, precision="fp32", device="cpu")))
    assert EXACT[0] <= outcome.exact <= EXACT[1]


@pytest.mark.slow
def test_logits_that_are_capped_after_the_head_are_held_longer() -> None:
    outcome = compare(Case("gemma2", "lora", Workload(2, 96, precision="bf16", device="cpu"), held_out=True))
    assert ANALYTIC[0] <= outcome.analytic <= ANALYTIC[1]
    assert EXACT[0] <= outcome.exact <= EXACT[1]


def test_a_model_that_cannot_be_built_is_named() -> None:
    with pytest.raises(ModelError, match="nonesuch"):
        trace_peak({"model_type": "nonesuch"}, "lora", Workload(1, 16))
