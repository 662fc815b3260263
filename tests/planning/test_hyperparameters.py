import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.planning.hyperparameters import Hyperparameter, derive
from tunesmith.planning.workload import Method

METHODS = st.sampled_from(["full", "lora", "qlora"])


def values(method: Method = "lora", **changes: int) -> dict[str, Hyperparameter]:
    facts = {"rows": 1_000, "longest": 700, "context": 8192, "parameters": 7_000_000_000, "micro_batch": 4} | changes
    return {setting.name: setting for setting in derive(method=method, **facts)}


@given(
    METHODS,
    st.integers(1, 10**8),
    st.integers(1, 200_000),
    st.integers(512, 10**6),
    st.integers(10**6, 10**12),
    st.integers(0, 64),
)
def test_every_value_lies_in_its_range(
    method: Method, rows: int, longest: int, context: int, parameters: int, micro_batch: int
) -> None:
    for setting in derive(
        rows=rows, longest=longest, context=context, parameters=parameters, method=method, micro_batch=micro_batch
    ):
        assert setting.reason
        if setting.low is not None and setting.high is not None:
            assert setting.low <= float(setting.value) <= setting.high, setting.name


def test_every_row_of_the_fields_table_is_there() -> None:
    table = {
        "Learning rate": (1e-5, 5e-4),
        "Batch size": (4, 32),
        "Epochs": (1, 5),
        "Warmup": (0.05, 0.1),
        "Weight decay": (0.01, 0.1),
        "Max sequence length": (512, 4096),
        "Gradient accumulation": (2, 16),
        "LR scheduler": (None, None),
    }
    assert {name: (values()[name].low, values()[name].high) for name in table} == table


def test_larger_models_learn_slower_and_full_fine_tuning_slowest() -> None:
    seven, seventy = values(), values(parameters=70_000_000_000)
    assert seventy["Learning rate"].value < seven["Learning rate"].value == 2e-4
    assert values("full")["Learning rate"].value == pytest.approx(2e-5)


def test_more_data_needs_fewer_epochs_and_takes_larger_batches() -> None:
    few, many = values(rows=120), values(rows=50_000)
    assert many["Epochs"].value < few["Epochs"].value
    assert many["Batch size"].value > few["Batch size"].value


def test_the_maximum_length_matches_the_data_and_never_exceeds_the_model() -> None:
    assert values(longest=700)["Max sequence length"].value == 704
    assert values(longest=700, context=256)["Max sequence length"].value == 256


def test_full_fine_tuning_has_no_rank() -> None:
    assert "LoRA rank" not in values("full")
    assert values()["LoRA alpha"].value == 2 * float(values()["LoRA rank"].value)
