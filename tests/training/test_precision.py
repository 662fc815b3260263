import pytest
import torch

from tunesmith.training import precision
from tunesmith.training.precision import use_bf16

CPU = torch.device("cpu")


def test_what_the_spec_says_is_done() -> None:
    assert use_bf16("bf16", "embedded", CPU)
    assert not use_bf16("fp32", "embedded", CPU)


@pytest.mark.parametrize(("fast", "smallest", "expected"), [(True, 1, True), (False, 1, False), (True, 10**6, False)])
def test_auto_is_bf16_where_the_processor_has_it_and_the_model_is_wide_enough(
    fast: bool, smallest: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16_fast", lambda _: fast)
    monkeypatch.setattr(precision, "SMALLEST_BF16_WIDTH", smallest)
    assert use_bf16("auto", "embedded", CPU) == expected
