import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.planning.memory import (
    RULE_OF_THUMB,
    estimate,
    largest_micro_batch,
    rule_of_thumb,
)
from tunesmith.planning.shapes import load_shape
from tunesmith.planning.workload import Method, Workload, trainable_parameters

SEED_TABLE = [
    ("1B", 1e9, 8, 5, 3),
    ("7B", 7e9, 56, 18, 8),
    ("13B", 13e9, 104, 32, 14),
    ("70B", 70e9, 560, 160, 48),
]


@pytest.mark.parametrize(("name", "parameters", "full", "lora", "qlora"), SEED_TABLE)
def test_the_rule_of_thumb_is_the_fields_table(
    name: str, parameters: float, full: float, lora: float, qlora: float
) -> None:
    found = [rule_of_thumb(method, int(parameters)) for method in ("full", "lora", "qlora")]
    assert found == [full, lora, qlora]


@given(st.sampled_from(list(RULE_OF_THUMB)), st.integers(1, 10**12), st.integers(1, 10**12))
def test_the_rule_of_thumb_grows_with_the_model(method: Method, one: int, other: int) -> None:
    small, large = sorted((one, other))
    assert 0 < rule_of_thumb(method, small) <= rule_of_thumb(method, large)


def test_full_fine_tuning_holds_four_times_the_model_before_activations() -> None:
    memory = estimate(load_shape("meta-llama/Llama-3.1-8B"), "full", Workload(1, 512))
    assert memory.weights + memory.gradients + memory.optimizer == 4 * memory.weights


def test_checkpointing_and_quantizing_need_less_and_fp32_more() -> None:
    shape = load_shape("Qwen/Qwen2.5-7B")
    lora = estimate(shape, "lora", Workload(4, 1024)).total
    assert estimate(shape, "lora", Workload(4, 1024, checkpointing=True)).total < lora
    assert estimate(shape, "qlora", Workload(4, 1024)).total < lora
    assert estimate(shape, "lora", Workload(4, 1024, precision="fp32")).total > lora


def test_the_largest_micro_batch_is_the_last_that_fits() -> None:
    shape = load_shape("Qwen/Qwen2.5-7B")
    work = Workload(1, 512)
    assert largest_micro_batch(shape, "lora", work, gpu_gib=80) >= 4
    assert largest_micro_batch(shape, "lora", work, gpu_gib=16) == 0
    assert largest_micro_batch(shape, "qlora", work, gpu_gib=16) >= 1


@pytest.mark.parametrize("method", ["dpo", "grpo", "ppo", "prefix", "prompt"])
def test_every_method_of_the_fields_table_is_counted(method: Method) -> None:
    shape = load_shape("Qwen/Qwen2.5-7B")
    work = Workload(2, 512)
    memory, lora = estimate(shape, method, work), estimate(shape, "lora", work)
    assert rule_of_thumb(method, shape.parameters) is None
    if method in ("prefix", "prompt"):
        assert trainable_parameters(shape, method) < trainable_parameters(shape, "lora")
        assert memory.total < lora.total
    else:
        assert memory.total >= lora.total
    assert estimate(shape, "ppo", work).total - estimate(shape, "grpo", work).total >= 2 * shape.parameters


def test_a_sharded_model_in_half_precision_holds_no_copy_of_its_weights() -> None:
    shape = load_shape("Qwen/Qwen2.5-7B")
    alone, shared = (estimate(shape, "full", Workload(1, 128, ranks=ranks)) for ranks in (1, 8))
    assert alone.activations > 2 * shape.linear_weights
    gathered = 4 * shape.vocabulary * shape.hidden  # the embedding and the head
    assert shared.activations - gathered < 0.3 * shape.linear_weights


def test_a_base_that_is_shared_leaves_each_its_part_and_the_adapter() -> None:
    shape = load_shape("meta-llama/Llama-3.1-70B")
    whole, shared = (estimate(shape, "lora", Workload(1, 512, ranks=8, sharded=sharded)) for sharded in (False, True))
    adapter = 4 * trainable_parameters(shape, "lora")
    assert whole.weights == 2 * shape.parameters + adapter
    assert shared.weights == pytest.approx(2 * shape.parameters / 8 + adapter, abs=1)
    assert (shared.gradients, shared.optimizer) == (whole.gradients, whole.optimizer)
    assert shared.total < whole.total / 3


def test_there_are_no_more_rows_at_once_than_replies() -> None:
    shape = load_shape("Qwen/Qwen2.5-7B")
    few, many = (estimate(shape, "grpo", Workload(rows, 512, rollouts=4)) for rows in (4, 16))
    assert few == many


def test_nothing_is_learned_at_the_places_of_a_soft_prompt() -> None:
    shape = load_shape("Qwen/Qwen2.5-7B")
    few, many = (estimate(shape, "prompt", Workload(1, 512, virtual_tokens=count)) for count in (10, 500))
    assert many.logits - few.logits < 0.2 * few.logits


def test_sharding_divides_what_is_held_and_gathers_layers() -> None:
    shape = load_shape("Qwen/Qwen2.5-7B")
    alone, shared = (estimate(shape, "full", Workload(2, 512, ranks=ranks)) for ranks in (1, 8))
    assert shared.weights == pytest.approx(alone.weights / 8, abs=1)
    assert shared.optimizer == pytest.approx(alone.optimizer / 8, abs=1)
    assert shared.activations > 4 * shape.vocabulary * shape.hidden  # what is outside the layers is whole
    assert shared.total < alone.total / 3
