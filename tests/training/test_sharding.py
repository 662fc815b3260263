"""A model that is spread over ranks is whole on none of them: not as it is loaded, and not between the passes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from forked_ranks import run_ranks
from tiny_models import make_model, make_rows
from torch.distributed.tensor import DTensor

from tunesmith.assets import embedded_model
from tunesmith.models.adapters import attach
from tunesmith.models.load import load_model, load_tokenizer
from tunesmith.spec import AdapterSpec
from tunesmith.training import ranks, sharding
from tunesmith.training.batches import collate
from tunesmith.training.objectives.sft import Sft
from tunesmith.training.sharding import gathered, give_back, shard

CPU = torch.device("cpu")


def own_bytes() -> int:
    """Memory of this process that is no part of a file."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


@contextmanager
def peak_of_own_bytes() -> Iterator[list[int]]:
    """The most that the block's memory grew by, at its end."""
    before, peak, done = own_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], own_bytes() - before)

    watching = threading.Thread(target=watch)
    watching.start()
    yield peak
    done.set()
    watching.join()
    peak[0] = max(peak[0], own_bytes() - before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_no_rank_ever_holds_more_than_its_part_of_a_model_and_a_layer(kind: str, tmp_path: Path) -> None:
    model = make_model(hidden_size=512, intermediate_size=2048, num_hidden_layers=8, num_attention_heads=8, head_dim=64)
    whole = sum(parameter.numel() * 4 for parameter in model.parameters())
    dtype = torch.bfloat16 if kind == "full" else torch.float32  # what learns is made fp32, part by part
    model.to(dtype).save_pretrained(tmp_path)
    load_tokenizer("embedded").save_pretrained(tmp_path)
    del model

    def load_and_shard() -> None:
        load_model(str(embedded_model()), dtype=torch.float32)  # what libraries set up is not counted
        ranks.join()
        with peak_of_own_bytes() as peak:
            base = load_model(str(tmp_path), dtype="auto" if kind == "full" else dtype)
            shard(attach(base, AdapterSpec(kind=kind)), CPU, dtype=torch.float32 if kind == "full" else None)
        assert peak[0] < 0.75 * whole  # 0.5, and what a layer and an adapter take

    run_ranks(2, load_and_shard)


def test_in_bf16_no_layer_is_held_between_its_forward_and_its_backward_pass() -> None:
    def held() -> None:
        ranks.join()
        model = attach(make_model(), AdapterSpec(kind="full")).train()
        matrices = {tuple(layer.weight.shape) for layer in model.model.modules() if isinstance(layer, torch.nn.Linear)}
        shard(model, CPU, bf16=True)
        objective = Sft(model)
        give_back(model)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        saved: list[torch.Tensor] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            saved.append(tensor)
            return tensor

        with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
            loss = objective.loss(collate(make_rows(4))).total
        weights = [kept for kept in saved if {tuple(kept.shape), tuple(kept.shape)[::-1]} & matrices]
        assert weights
        assert not any(kept.untyped_storage().nbytes() for kept in weights)
        loss.backward()

    run_ranks(2, held)


@pytest.mark.parametrize("kind", ["lora", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("room", [True, False])
def test_layers_stay_whole_for_many_passes_where_there_is_room(
    kind: str, room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "_free_bytes", lambda model: 2 * sharding._whole_bytes(model) - (not room))
    rows = make_rows(2)
    tokens = collate(rows).input_ids

    def held() -> None:
        ranks.join()
        model = attach(make_model(), AdapterSpec(kind=kind))
        inner = model.get_base_model() if kind == "lora" else model  # which is what generation calls
        expected, first = inner(tokens).logits, inner.model.layers[0]
        shard(model, CPU)
        objective = Sft(model)
        give_back(model)
        with gathered(model), torch.no_grad():
            for _ in range(2):
                torch.testing.assert_close(inner(tokens).logits, expected)
            assert not isinstance(inner.model.embed_tokens.weight, DTensor)
            assert isinstance(first.input_layernorm.weight, DTensor) != room
        assert all(isinstance(value, DTensor) for name, value in model.named_parameters() if "lora" not in name)
        loss = objective.loss(collate(rows)).total
        assert isinstance(first.input_layernorm.weight, DTensor)
        loss.backward()
        assert all(isinstance(value, DTensor) for name, value in model.named_parameters() if "lora" not in name)

    run_ranks(2, held)
