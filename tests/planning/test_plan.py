import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from rich.console import Console

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.errors import SpecError
from tunesmith.planning.data_facts import RECOMMENDED_ROWS, TEMPLATE_TOKENS, _tiktoken_file, measure, rate
from tunesmith.planning.plan import Plan, make_plan, plan_to_spec
from tunesmith.planning.show import fits, rows, show_plan
from tunesmith.planning.typical import range_warnings

MODEL = "meta-llama/Llama-3.2-1B"


def tickets(count: int) -> list[Conversation]:
    return [
        Conversation((Message("system", "Classify."), Message("user", f"Ticket {i}: help"), Message("assistant", "ok")))
        for i in range(count)
    ]


def test_a_plan_survives_json() -> None:
    plan = make_plan(tickets(300), MODEL, gpu="RTX 4090")
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_the_trained_share_counts_the_adapter_among_the_parameters_as_peft_does() -> None:
    plan = make_plan(tickets(300), "embedded")
    shares = {method.method: method.trained_share for method in plan.methods}
    assert shares["lora"] == pytest.approx(299_008 / 3_774_720)
    assert shares["full"] == 1.0


def test_lora_is_planned_where_it_fits_and_qlora_where_only_that_does() -> None:
    assert make_plan(tickets(300), "meta-llama/Llama-3.1-8B", gpu="A100 80GB").method == "lora"
    assert make_plan(tickets(300), "meta-llama/Llama-3.1-8B", gpu="T4").method == "qlora"


def test_several_gpus_share_full_fine_tuning_and_hold_every_adapter_whole() -> None:
    alone, shared = (make_plan(tickets(300), "meta-llama/Llama-3.1-8B", gpu="A100 80GB", gpus=gpus) for gpus in (1, 8))
    (lora, _, full, *_), (lora_on_each, _, full_on_each, *_) = alone.methods, shared.methods
    assert (full.micro_batch, fits(full)) == (0, "takes 2 of them")
    assert full_on_each.micro_batch == 64
    assert full_on_each.one_row_bytes < full.one_row_bytes / 3
    assert lora_on_each.one_row_bytes == lora.one_row_bytes
    assert shared.answer.startswith("LoRA fits on 8 × A100 80GB, 64 rows or more of")  # noqa: RUF001
    assert shared.hours == pytest.approx(alone.hours / 8)
    assert shared.costs[-1].training_usd == pytest.approx(alone.costs[-1].training_usd)
    assert "Memory on each of 8 GPUs" in printed(shared)
    with pytest.raises(SpecError, match="--gpus 0"):
        make_plan(tickets(300), "embedded", gpus=0)


def test_long_rows_fit_where_activations_are_computed_again_as_training_does_by_itself() -> None:
    long = [Conversation((Message("user", "word " * 6_000), Message("assistant", "word " * 2_000)))] * 60
    plan = make_plan(long, "meta-llama/Llama-3.1-8B", gpu="RTX 4090")
    lora = next(method for method in plan.methods if method.method == "lora")
    assert (plan.method, lora.checkpointing) == ("lora", True)
    assert "activations computed again" in plan.answer
    assert fits(lora) == f"checkpointed, {rows(lora.micro_batch)}"


def test_a_plan_of_an_earlier_version_can_be_read() -> None:
    plan = msgspec.json.decode(msgspec.json.encode(make_plan(tickets(300), MODEL)))
    del plan["gpus"]
    for method in plan["methods"]:
        del method["trained_share"], method["gpus_needed"], method["checkpointing"]
    old = msgspec.convert(plan, Plan)
    assert old.methods[0].trained_share is None
    assert old.answer in printed(old)


def test_a_model_too_large_for_the_gpu_is_said_first_and_names_one_that_holds_it() -> None:
    plan = make_plan(tickets(300), "meta-llama/Llama-3.1-70B", gpu="T4")
    assert plan.answer.startswith("No method fits on one T4")
    assert "L40S" in plan.answer or "A6000" in plan.answer


def test_the_planned_spec_carries_the_planned_values_and_warns_of_nothing() -> None:
    plan = make_plan(tickets(300), MODEL)
    spec = plan_to_spec(plan, "data/tickets.jsonl")
    planned = {setting.key: setting.value for setting in plan.hyperparameters}
    assert spec.output == "runs/tickets"
    assert spec.training.learning_rate == planned["training.learning_rate"]
    assert spec.adapter.r == planned["adapter.r"]
    assert range_warnings(spec) == ()


def test_a_base_that_fits_no_gpu_is_shared_by_several_and_the_spec_says_so() -> None:
    plan = make_plan(tickets(300), "meta-llama/Llama-3.1-70B", gpu="A100-80GB", gpus=4)
    assert "LoRA fits on 4" in plan.answer
    assert "the base shared by them (training.sharding: fsdp)" in plan.answer
    assert {method.method for method in plan.methods if method.sharded} == {"lora", "dpo", "grpo"}  # ppo has two bases
    spec = plan_to_spec(plan, "data/tickets.jsonl")
    assert (spec.adapter.kind, spec.training.sharding) == ("lora", "fsdp")
    alone = make_plan(tickets(300), "meta-llama/Llama-3.1-70B", gpu="A100-80GB")
    assert [method.gpus_needed for method in alone.methods if method.method == "lora"] == [4]
    small = make_plan(tickets(300), "Qwen/Qwen2.5-7B", gpu="A100-80GB", gpus=4)
    assert plan_to_spec(small, "data/tickets.jsonl").training.sharding == "auto"


def test_the_method_that_fits_the_gpu_is_written_into_the_spec() -> None:
    plan = make_plan(tickets(300), "meta-llama/Llama-3.1-8B", gpu="T4")
    assert plan_to_spec(plan, "tickets.jsonl").adapter.kind == "qlora"


def test_too_few_rows_are_warned_about() -> None:
    assert any("30 rows" in warning for warning in make_plan(tickets(30), MODEL).warnings)


def test_sizes_are_rated_by_the_fields_table() -> None:
    assert RECOMMENDED_ROWS["code"] == (1_000, 10_000, 100_000)
    assert [rate(rows, "extraction")[0] for rows in (99, 100, 1_000, 10_000)] == [
        "too few",
        "minimum",
        "good",
        "excellent",
    ]
    with pytest.raises(SpecError, match="classification"):
        rate(100, "poetry")


def test_only_weighted_assistant_turns_of_the_completion_count_as_trained() -> None:
    text = "word " * 40
    turns = (Message("assistant", text, weight=0), Message("user", text), Message("assistant", text))
    facts = measure([Conversation(turns)], MODEL)
    assert facts.supervised_share == pytest.approx(1 / 3, abs=0.01)
    assert measure([Conversation(text=text)], MODEL).supervised_share == 1


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(SpecError, match="no rows"):
        make_plan([], MODEL)


def test_a_large_set_is_sampled_and_scaled() -> None:
    assert measure(tickets(5_000), MODEL).tokens == pytest.approx(5 * measure(tickets(1_000), MODEL).tokens, rel=0.05)


def test_the_plan_reads_at_eighty_columns() -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(show_plan(make_plan(tickets(300), "meta-llama/Llama-3.1-8B-Instruct", gpu="A100 80GB")))
    text = console.export_text()
    assert "LoRA fits on one A100 80GB" in text
    assert "Gradient accumulation" in text
    assert "GPT-4o-mini FT" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_planning_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from tunesmith.planning.plan import make_plan; from tunesmith.dataset.conversation import *;"
        f"make_plan([Conversation((Message('user', 'a'), Message('assistant', 'b')))] * 60, {MODEL!r});"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def printed(plan: Plan) -> str:
    console = Console(width=2000, record=True, file=io.StringIO())
    console.print(show_plan(plan))
    return console.export_text()


def no_network(name: str) -> None:
    raise ConnectionError("no route to host")


def test_openai_is_paid_by_its_own_tokens_where_tiktoken_has_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    rows = tickets(10)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "empty"))
    unknown = make_plan(rows, MODEL)
    assert unknown.data.openai_tokens is None  # nothing is cached, and nothing is asked of the network
    assert "reckoned by an estimate of four characters a token" in printed(unknown)
    assert "by OpenAI's own they may be nearer" in printed(make_plan(rows, "embedded"))

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    _tiktoken_file().touch()
    monkeypatch.setattr(tiktoken, "get_encoding", no_network)  # what it does where its file is damaged
    assert make_plan(rows, MODEL).data.openai_tokens is None

    words = SimpleNamespace(encode_ordinary=str.split)
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: words)
    plan = make_plan(rows, MODEL)
    assert plan.data.openai_tokens == 10 * ((1 + TEMPLATE_TOKENS) + (3 + TEMPLATE_TOKENS) + (1 + TEMPLATE_TOKENS))
    epochs = next(setting.value for setting in plan.hyperparameters if setting.key == "training.epochs")
    assert plan.costs[0].training_usd == pytest.approx(3.0 * plan.data.openai_tokens * float(epochs) / 1e6)
