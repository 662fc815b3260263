import pytest

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.errors import SpecError
from tunesmith.planning.data_facts import measure
from tunesmith.planning.gpus import find_gpu
from tunesmith.planning.plan import make_plan
from tunesmith.planning.shapes import load_shape
from tunesmith.planning.volume import EXAMPLES, plan_volume

MODEL = "meta-llama/Llama-3.1-8B"
ROWS = [
    Conversation((Message("user", f"Ticket {i}: my parcel is late"), Message("assistant", "shipping")))
    for i in range(300)
]
DATA = measure(ROWS, MODEL)
SHAPE = load_shape(MODEL)
GPU = find_gpu("a100 80gb")


def test_at_the_break_even_both_ways_have_cost_the_same() -> None:
    volume = plan_volume(SHAPE, DATA, GPU, 3.0)
    assert volume is not None
    for way in volume.others:
        assert way.break_even_calls is not None
        assert volume.cost(volume.tuned, way.break_even_calls) <= volume.cost(way, way.break_even_calls)
        assert volume.cost(volume.tuned, way.break_even_calls - 2) > volume.cost(way, way.break_even_calls - 2)


def test_the_untuned_model_reads_its_examples_in_every_call() -> None:
    volume = plan_volume(SHAPE, DATA, GPU, 3.0, monthly_calls=10_000)
    assert volume is not None
    tuned, longer, larger = volume.tuned, *volume.others
    assert longer.prompt_tokens == tuned.prompt_tokens + EXAMPLES * DATA.median
    assert (larger.name, larger.prompt_tokens) == ("gpt-4o", tuned.prompt_tokens)
    assert tuned.month_usd == pytest.approx(10 * tuned.thousand_calls_usd)
    per_call = (larger.prompt_tokens * 2.50 + larger.reply_tokens * 10.00) / 1e6
    assert larger.thousand_calls_usd == pytest.approx(1_000 * per_call)


def test_a_cheaper_model_is_never_beaten_and_an_unknown_one_is_refused() -> None:
    volume = plan_volume(SHAPE, DATA, GPU, 3.0, larger="Qwen/Qwen2.5-0.5B")
    assert volume is not None
    assert volume.others[1].break_even_calls is None
    with pytest.raises(SpecError, match=r"--larger nonesuch\.x: no price known"):
        plan_volume(SHAPE, DATA, GPU, 3.0, larger="nonesuch.x")
    with pytest.raises(SpecError, match="--monthly-calls 0"):
        plan_volume(SHAPE, DATA, GPU, 3.0, monthly_calls=0)


def test_a_budget_too_small_says_what_it_would_pay_for() -> None:
    assert make_plan(ROWS, MODEL, gpu="a100 80gb", budget=50).warnings == make_plan(ROWS, MODEL).warnings
    (cost,) = [cost.training_usd for cost in make_plan(ROWS, MODEL).costs if cost.provider == "Together.ai"]
    assert cost is not None
    warning = make_plan(ROWS, MODEL, budget=cost / 100).warnings[-1]
    assert "above the budget" in warning and "of the tokens" in warning
    with pytest.raises(SpecError, match="--budget 0"):
        make_plan(ROWS, MODEL, budget=0)
