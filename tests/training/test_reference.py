from collections.abc import Callable

import pytest
import torch
from tiny_models import make_model, make_rows

from tunesmith.models.adapters import attach
from tunesmith.settings import load_settings
from tunesmith.spec import AdapterSpec
from tunesmith.training import reference as reference_module
from tunesmith.training.data import TrainingData
from tunesmith.training.preference import Pair
from tunesmith.training.reference import Reference, reference_logps, with_reference
from tunesmith.training.token_loss import TokenLoss, row_logps, token_logps


def make_data(seed: int = 0) -> TrainingData:
    rows = make_rows(8, seed=seed)
    pairs = [Pair(chosen, rejected) for chosen, rejected in zip(rows[0::2], rows[1::2], strict=True)]
    return TrainingData(tuple(pairs[:3]), tuple(pairs[3:]), (), 0, 0.0)


@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt", "full"])
def test_the_reference_is_the_base_that_training_starts_from(kind: str) -> None:
    adapter = AdapterSpec(kind=kind)
    data = with_reference(make_data(), attach(make_model(), adapter), adapter, bf16=False)
    base = TokenLoss(make_model())
    for pair in (*data.train, *data.validation):
        assert pair.reference == pytest.approx(row_logps(base, pair.rows).tolist(), rel=1e-5)


def test_an_adapter_that_took_from_its_base_is_put_back_for_the_reference() -> None:
    adapter = AdapterSpec(init="pissa", r=4)
    rows = make_rows(4)
    found = reference_logps(attach(make_model(), adapter), adapter, rows, bf16=False)
    torch.testing.assert_close(found, row_logps(TokenLoss(make_model()), rows), rtol=1e-4, atol=1e-4)


def test_the_pass_is_made_once_and_again_when_rows_or_weights_change(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []

    def counted(*arguments: object, **options: object) -> torch.Tensor:
        passes.append(1)
        return reference_logps(*arguments, **options)

    monkeypatch.setattr(reference_module, "reference_logps", counted)
    adapter = AdapterSpec()
    first = with_reference(make_data(), attach(make_model(), adapter), adapter, bf16=False)
    again = with_reference(make_data(), attach(make_model(), adapter, seed=5), adapter, bf16=False)
    assert [pair.reference for pair in first.train] == [pair.reference for pair in again.train]
    assert len(passes) == 1

    with_reference(make_data(seed=1), attach(make_model(), adapter), adapter, bf16=False)
    assert len(passes) == 2
    other = make_model()
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1e-3
    with_reference(make_data(), attach(other, adapter), adapter, bf16=False)
    assert len(passes) == 3


def test_a_damaged_cache_is_made_anew() -> None:
    adapter = AdapterSpec()
    first = with_reference(make_data(), attach(make_model(), adapter), adapter, bf16=False)
    (path,) = (load_settings().cache / "reference").iterdir()
    path.write_bytes(path.read_bytes()[:20])
    again = with_reference(make_data(), attach(make_model(), adapter), adapter, bf16=False)
    assert first.train[0].reference == again.train[0].reference


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_an_online_reference_stays_while_the_policy_moves(kind: str) -> None:
    adapter = AdapterSpec(kind=kind)
    model = attach(make_model(), adapter)
    reference, rows = Reference(model, adapter), make_rows(3)
    before = reference.token_logps(rows)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05
    after = reference.token_logps(rows)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    sums = torch.stack([part.sum(dtype=torch.float64) for part in before])
    assert not torch.allclose(row_logps(TokenLoss(model), rows), sums)


def test_beside_a_policy_in_bf16_the_reference_is_not_read_from_its_cast_weights() -> None:
    """Autocast keeps the casts of a step, in which the parameters are exchanged."""
    adapter = AdapterSpec(kind="full")
    model = attach(make_model(), adapter)
    reference, token_loss, rows = Reference(model, adapter), TokenLoss(model), make_rows(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05

    def asked(ask: Callable[[], list[torch.Tensor]]) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return torch.cat(ask())

    policy, expected = asked(lambda: token_logps(token_loss, rows)), asked(lambda: reference.token_logps(rows))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(torch.cat(token_logps(token_loss, rows)), policy)
        assert torch.equal(torch.cat(reference.token_logps(rows)), expected)
        assert torch.equal(torch.cat(token_logps(token_loss, rows)), policy)
    assert not torch.allclose(policy, expected)
