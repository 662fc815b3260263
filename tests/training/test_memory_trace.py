"""Against what PyTorch's CPU allocator gave for the engine's own loss and optimizer (torch 2.13, transformers 5)."""

import pytest
from benchmarks.memory import Case, measured_peak

from tunesmith.errors import ModelError
from tunesmith.planning.memory import Workload, estimate
from tunesmith.planning.shapes import shape_of
from tunesmith.spec import AdapterSpec
from tunesmith.training.memory_trace import trace_peak

CONFIG = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}

CASES = [
    Case("llama", "lora", Workload(2, 128, precision="fp32")),
    Case("llama", "full", Workload(2, 128, precision="bf16", checkpointing=True)),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method}-{case.work.precision}")
def test_the_traced_step_holds_what_the_allocator_gave(case: Case) -> None:
    measured = measured_peak(CONFIG, case)
    assert trace_peak(CONFIG, AdapterSpec(kind=case.method), case.work) == pytest.approx(measured, rel=0.03)
    counted = estimate(shape_of(CONFIG, "llama"), case.method, case.work).total
    assert 0.97 * measured <= counted <= 1.10 * measured


def test_a_model_that_cannot_be_built_is_named() -> None:
    with pytest.raises(ModelError, match="nonesuch"):
        trace_peak({"model_type": "nonesuch"}, AdapterSpec(), Workload(1, 16))
