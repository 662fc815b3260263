"""Activation checkpointing: the same loss and gradients, and only where the plan says that memory asks for it; and how
many tokens a GPU runs at once."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_train import make_spec, read_events
from torch.utils.checkpoint import checkpoint

from tunesmith.dataset.render import Renderer
from tunesmith.errors import SpecError
from tunesmith.models.load import load_tokenizer
from tunesmith.planning.memory import Workload, estimate, usable_bytes
from tunesmith.planning.shapes import load_shape
from tunesmith.training.batches import Row
from tunesmith.training.data import prepare_data
from tunesmith.training.device_memory import device_bytes, micro_batch_tokens, wants_checkpointing
from tunesmith.training.events import StepEvent
from tunesmith.training.run import train

CPU = torch.device("cpu")


@pytest.mark.parametrize("adapter", [{"kind": "lora", "dropout": 0.1}, {"kind": "full"}, {"kind": "prompt"}])
def test_computing_activations_again_changes_no_loss_and_no_gradient(
    adapter: dict[str, object], tickets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(how)
        return checkpoint(*arguments, **options)

    monkeypatch.setattr("transformers.modeling_utils.checkpoint", counted)
    curves = []
    for how in ("off", "on"):
        training = {"steps": 3, "epochs": None, "eval_every": 3, "activation_checkpointing": how}
        run = train(make_spec(tickets, tmp_path / how, adapter=adapter, training=training)).run
        steps = [event for event in read_events(run) if isinstance(event, StepEvent)]
        curves.append([(event.loss, event.grad_norm) for event in steps])
    for without, again in zip(*curves, strict=True):
        assert again == pytest.approx(without, rel=1e-6)
    assert set(calls) == {"on"}


def test_auto_checkpoints_when_the_longest_example_does_not_fit_by_itself(
    tickets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec(tickets, tmp_path / "run")
    data = prepare_data(spec, Renderer(load_tokenizer("embedded")))
    longest = max(data.train, key=lambda row: len(row.rows[0].tokens))
    work = Workload(1, len(longest.rows[0].tokens), precision="fp32", rank=spec.adapter.r, device="cpu")
    needed = estimate(load_shape("embedded"), "lora", work).total
    assert not wants_checkpointing(spec, longest, device=CPU, bf16=False, available=needed)
    with caplog.at_level(logging.WARNING):
        assert wants_checkpointing(spec, longest, device=CPU, bf16=False, available=needed - 1)
    assert "computed again in the backward pass" in caplog.text
    assert device_bytes(CPU) > needed
    off = make_spec(tickets, tmp_path / "run", training={"activation_checkpointing": "off"})
    assert not wants_checkpointing(off, longest, device=CPU, bf16=False, available=0)


def test_a_learned_prefix_cannot_be_computed_again() -> None:
    with pytest.raises(SpecError, match=r"activation_checkpointing: on forgets the keys and values"):
        make_spec(Path("x.jsonl"), Path("run"), adapter={"kind": "prefix"}, training={"activation_checkpointing": "on"})


@pytest.mark.parametrize(("tokens", "chosen"), [(16384, 16384), (8192, 8192), (4096, 4096), (1, 4096)])
def test_a_gpu_runs_as_many_tokens_at_once_as_fit_by_the_plan(
    tokens: int, chosen: int, tickets: Path, tmp_path: Path
) -> None:
    spec = make_spec(tickets, tmp_path / "run")
    longest = Row(np.zeros(64, np.int32), np.ones(64, np.bool_))
    work = Workload(tokens // 64, 64, precision="bf16", rank=spec.adapter.r, device="cuda")
    available = estimate(load_shape("embedded"), "lora", work).total if tokens > 1 else 1
    found = micro_batch_tokens(
        spec, longest, device=torch.device("cuda"), bf16=True, checkpointing=False, available=available
    )
    assert found == chosen
    assert micro_batch_tokens(spec, longest, device=CPU, bf16=True, checkpointing=False) == 4096


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
@pytest.mark.parametrize("adapter", ["full", "lora", "prompt"])
@pytest.mark.parametrize("judges", [0, 1])
def test_an_online_objective_is_counted_by_what_learns_with_its_reference_and_reward_models_beside_it(
    kind: str, adapter: str, judges: int, tmp_path: Path
) -> None:
    rewards = ["a:function", str(tmp_path)][: 1 + judges]
    objective = {"kind": kind, "reward": rewards, "max_completion_length": 16}
    spec = make_spec(tmp_path / "rows.jsonl", tmp_path / "run", adapter={"kind": adapter}, objective=objective)
    longest = Row(np.zeros(48, np.int32), np.ones(48, np.bool_))
    shape = load_shape("embedded")
    reference = 4 * shape.parameters if adapter == "full" else 0  # without one to switch off, a copy in fp32
    for device, width in ((CPU, 4), (torch.device("cuda"), 2)):
        work = Workload(1, 64, precision="bf16", rank=spec.adapter.r, device=device.type)
        needed = estimate(shape, spec.adapter.kind, work).total + reference + judges * width * shape.parameters
        assert not wants_checkpointing(spec, longest, device=device, bf16=True, available=needed)
        assert wants_checkpointing(spec, longest, device=device, bf16=True, available=needed - 1)


def test_what_others_hold_of_a_gpu_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10 * 2**30)
    assert device_bytes(torch.device("cuda")) == usable_bytes(40)
