import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from peft import LoraConfig, get_peft_model
from tiny_models import CONFIGS, make_model, make_rows, reference_loss
from transformers import PreTrainedModel

from tunesmith.training.batches import collate, micro_batches
from tunesmith.training.token_loss import TokenLoss, unchanged

TOLERANCE = 2e-5  # fp32, against transformers 5's own loss on unpadded rows


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_same_loss_and_gradients(model: PreTrainedModel, chunk_logits: int) -> None:
    rows = make_rows(6)
    expected = reference_loss(model, rows)
    expected.backward()
    expected_gradients = gradients(model)

    batch = collate(rows)
    losses = TokenLoss(model, chunk_logits)(batch.input_ids, batch.positions, batch.targets)
    losses.mean().backward()
    ours = gradients(model)

    assert losses.shape == batch.targets.shape
    assert losses.mean().item() == pytest.approx(expected.item(), abs=TOLERANCE)
    assert ours.keys() == expected_gradients.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=TOLERANCE, rtol=1e-3, msg=name)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_loss_and_gradients_are_those_of_transformers_when_all_learn(architecture: str) -> None:
    assert_same_loss_and_gradients(make_model(architecture), chunk_logits=96 * 10)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_loss_and_gradients_are_those_of_transformers_with_lora(architecture: str) -> None:
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    assert_same_loss_and_gradients(get_peft_model(make_model(architecture), config), chunk_logits=96 * 10)


def test_an_adapter_on_the_head_learns_the_same() -> None:
    config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    assert_same_loss_and_gradients(get_peft_model(make_model(), config), chunk_logits=96 * 10)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_what_follows_the_head_is_recognized(architecture: str) -> None:
    after_head = TokenLoss(make_model(architecture))._after_head
    assert after_head is not None
    assert (after_head is unchanged) == (architecture in {"llama", "qwen3", "mistral"})


@pytest.mark.parametrize("architecture", [*CONFIGS, "unknown"])
@pytest.mark.parametrize("lora", [False, True])
def test_a_temperature_divides_the_logits(architecture: str, lora: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if architecture == "unknown":
        monkeypatch.setattr("tunesmith.training.token_loss._after_head_candidates", lambda config: iter(()))
        architecture = "gemma2"
    model = make_model(architecture)
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    (batch,) = micro_batches(make_rows(1))
    logits = model(input_ids=batch.input_ids).logits[0, batch.positions].float()
    expected = F.cross_entropy(logits / 0.7, batch.targets, reduction="none")
    expected.mean().backward()
    expected_gradients = gradients(model)
    losses = TokenLoss(model, 96 * 10, temperature=0.7).of(batch)
    losses.mean().backward()
    torch.testing.assert_close(losses, expected, atol=TOLERANCE, rtol=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=TOLERANCE, rtol=1e-3, msg=name)


def test_an_unknown_head_ending_still_gives_the_models_own_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.training.token_loss._after_head_candidates", lambda config: iter(()))
    assert_same_loss_and_gradients(make_model("gemma2"), chunk_logits=96 * 10)


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_a_head_whose_logits_are_too_many_to_keep_learns_the_same(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.training.trained_head.KEPT_BYTES", 0)
    assert_same_loss_and_gradients(make_model(architecture), chunk_logits=96 * 10)


def test_the_head_never_sees_more_positions_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.training.trained_head.KEPT_BYTES", 0)  # what is kept calls no head
    model = make_model()
    seen = []
    token_loss = TokenLoss(model, chunk_logits=96 * 7)
    model.lm_head.register_forward_hook(lambda _m, _i, output: seen.append(output.shape[:-1].numel()))
    batch = collate(make_rows(6))
    token_loss(batch.input_ids, batch.positions, batch.targets)
    assert sum(seen) == len(batch.targets)
    assert max(seen) <= 7


@pytest.mark.parametrize("architecture", CONFIGS)
def test_padding_changes_no_rows_loss(architecture: str) -> None:
    rows = sorted(make_rows(5), key=lambda row: len(row.tokens))
    token_loss = TokenLoss(make_model(architecture).eval())
    with torch.no_grad():
        together = collate(rows)
        padded = token_loss(together.input_ids, together.positions, together.targets)
        alone = [
            token_loss(batch.input_ids, batch.positions, batch.targets)
            for batch in (micro_batches([row])[0] for row in rows)
        ]
    torch.testing.assert_close(padded, torch.cat(alone), atol=TOLERANCE, rtol=0)
