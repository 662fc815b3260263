"""The run spec: what is accepted, and what a person reads when it is not."""

from pathlib import Path

import pytest

from tunesmith.errors import SpecError
from tunesmith.spec import RunSpec, dump_spec, load_spec, parse_spec, range_warnings

MINIMAL = "model: embedded\ndata:\n  train: tickets.jsonl\noutput: runs/tickets\n"


def write_spec(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_a_minimal_spec_resolves_to_the_documented_defaults(tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path, MINIMAL))
    assert (spec.adapter.kind, spec.adapter.r, spec.adapter.alpha) == ("lora", 16, 32)
    assert spec.training.planned_epochs == 3
    assert spec.training.learning_rate == 2e-4


def test_a_dumped_spec_reads_back_as_itself(tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path, MINIMAL + "training: {steps: 7}\n"))
    assert load_spec(write_spec(tmp_path, dump_spec(spec))) == spec


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        (
            "training:\n  learnig_rate: 1.0e-4\n",
            ":6:3: training.learnig_rate: unknown key; did you mean `learning_rate`?",
        ),
        ("training: {epochs: three}\n", ":5:12: training.epochs: found 'three'; expected a valid number"),
        ("training: {learning_rate: -1}\n", ":5:12: training.learning_rate: found -1; expected greater than 0"),
        ("training: {epochs: 1, steps: 2}\n", ":5:1: training: give `epochs` or `steps`, not both"),
        ("adapter: {kind: lorra}\n", ":5:11: adapter.kind: found 'lorra'; expected "),
        ("adapter: {targets: 5}\n", ":5:11: adapter.targets: found 5; expected "),
        ("trainning: {}\n", ":5:1: trainning: unknown key; did you mean `training`?"),
        ("training: {seed: .nan}\n", "training.seed"),
        ("a: [\n", ":6:1: not valid YAML"),
    ],
)
def test_an_error_names_line_column_key_and_mend(tmp_path: Path, addition: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        load_spec(write_spec(tmp_path, MINIMAL + addition))
    assert message in str(error.value)
    assert str(error.value).count("\n") <= 1


def test_a_missing_key_is_named() -> None:
    with pytest.raises(SpecError, match=r"data\.train: required, and missing"):
        parse_spec({"model": "embedded", "data": {}, "output": "runs/x"})


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot read the run spec: No such file"):
        load_spec(tmp_path / "absent.yaml")


def test_overrides_reach_nested_keys_and_are_validated(tmp_path: Path) -> None:
    path = write_spec(tmp_path, MINIMAL)
    assert load_spec(path, ("training.epochs=1", "adapter.targets=[q_proj, v_proj]")).adapter.targets == [
        "q_proj",
        "v_proj",
    ]
    with pytest.raises(SpecError, match="key=value"):
        load_spec(path, ("training.epochs",))
    with pytest.raises(SpecError, match="`model` is a value"):
        load_spec(path, ("model.x=1",))


def test_a_value_outside_its_typical_range_warns_with_the_range() -> None:
    spec = RunSpec.model_validate(
        {
            "model": "embedded",
            "data": {"train": "x"},
            "output": "y",
            "training": {"learning_rate": 0.01, "batch_size": 64},
        }
    )
    warnings = range_warnings(spec)
    assert any("training.learning_rate is 0.01" in w and "1e-05 to 0.0005" in w for w in warnings)
    assert any("training.batch_size is 64" in w for w in warnings)
