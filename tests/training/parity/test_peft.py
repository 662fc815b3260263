"""The loss and gradients of every adapter against PEFT's own forward with labels (peft 0.21, fp32, 1e-5 relative).

Soft prompts move the positions that the head is asked at, so this is where a mistake would show.
"""

import numpy as np
import pytest
import torch
from tiny_models import make_model, make_rows

from tunesmith.models.adapters import attach
from tunesmith.spec import AdapterSpec
from tunesmith.training.batches import collate
from tunesmith.training.objectives.sft import Sft

TOLERANCE = 1e-5


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize(
    "adapter",
    [
        {"kind": "lora"},
        {"kind": "lora", "dora": True},
        {"kind": "lora", "init": "pissa", "r": 4},
        {"kind": "prefix"},
        {"kind": "prompt"},
    ],
    ids=["lora", "dora", "pissa", "prefix", "prompt"],
)
def test_the_loss_of_an_adapter_is_that_of_peft(adapter: dict[str, object], architecture: str) -> None:
    rows = make_rows(5)
    ours, theirs = (attach(make_model(architecture), AdapterSpec(**adapter)).eval() for _ in range(2))
    sft = Sft(ours)
    loss = sft.loss(collate(rows)).total / sft.weight(rows)
    loss.backward()

    expected = torch.zeros(())
    for row in rows:
        tokens = torch.from_numpy(row.tokens.astype(np.int64))[None]
        labels = torch.from_numpy(np.where(row.supervised, row.tokens, -100).astype(np.int64))[None]
        output = theirs(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=labels)
        expected = expected + output.loss * int(row.supervised[1:].sum())
    expected = expected / sft.weight(rows)
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    gradients = {name: value.grad for name, value in theirs.named_parameters() if value.grad is not None}
    assert gradients
    for name, value in ours.named_parameters():
        if name in gradients:
            scale = max(float(gradients[name].abs().max()), 1e-6)
            torch.testing.assert_close(value.grad, gradients[name], rtol=0, atol=TOLERANCE * scale, msg=name)
