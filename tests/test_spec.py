"""The run spec: what is accepted, and what a person reads when it is not."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunesmith.errors import SpecError
from tunesmith.planning.typical import range_warnings
from tunesmith.spec import ADAPTER_OPTIONS, RunSpec, dump_spec, load_spec, parse_spec

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


@pytest.mark.parametrize("word", ["on", "off"])
def test_on_and_off_are_words_although_yaml_reads_them_as_booleans(word: str, tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path, MINIMAL + f"training: {{activation_checkpointing: {word}}}\n"))
    overridden = load_spec(write_spec(tmp_path, MINIMAL), (f"training.activation_checkpointing={word}",))
    dumped = load_spec(write_spec(tmp_path, dump_spec(spec)))
    assert [read.training.activation_checkpointing for read in (spec, overridden, dumped)] == [word] * 3


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
            "training": {"learning_rate": 0.01, "batch_size": 64, "scheduler": "constant"},
        }
    )
    warnings = range_warnings(spec)
    assert any("training.learning_rate is 0.01" in w and "1e-05 to 0.0005" in w for w in warnings)
    assert any("training.batch_size is 64" in w for w in warnings)
    assert any("training.scheduler is constant" in w for w in warnings)


def test_one_target_needs_no_list() -> None:
    assert parse_spec(minimal(adapter={"targets": "q_proj"})).adapter.targets == ["q_proj"]
    assert parse_spec(minimal(adapter={"targets": "all-linear"})).adapter.targets == "all-linear"


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"kind": "full", "r": 8}, "`r` is an option of lora and qlora, not of full"),
        ({"kind": "prompt", "targets": "all-linear"}, "`targets` is an option of lora and qlora, not of prompt"),
        ({"kind": "lora", "virtual_tokens": 8}, "`virtual_tokens` is an option of prefix and prompt, not of lora"),
        ({"kind": "qlora", "init": "pissa"}, "init pissa splits the base's weights, which qlora keeps in 4 bits"),
        ({"kind": "lora", "init": "eva"}, "adapter.init: found 'eva'; expected default, gaussian, "),
        ({"kind": "lora", "targets": []}, "adapter.targets: no module is named; give all-linear, or names such as"),
    ],
)
def test_an_option_that_the_adapter_does_not_have_is_refused(adapter: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        parse_spec(minimal(adapter=adapter))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"objective": {"kind": "dpo", "simpo_gamma": 1.0}}, "`simpo_gamma` is an option of loss_type: simpo, not of"),
        (
            {"objective": {"kind": "dpo", "loss_type": "orpo", "sft_weight": 1.0}},
            "`sft_weight` is an option of loss_type: sigmoid and ipo, not of orpo; remove it",
        ),
        ({"objective": {"kind": "dpo", "sft_weight": -1.0}}, "objective.sft_weight: found -1.0; expected greater than"),
        ({"objective": {"kind": "dpo", "bta": 1.0}}, "objective.bta: unknown key; did you mean `beta`?"),
        ({"objective": {"kind": "rlhf", "policy": {"kind": "grpo", "bta": 1.0}}}, "objective.policy.bta: unknown key"),
        ({"objective": {"kind": "grpo", "reward": 5}}, "objective.reward: found 5; expected a valid string"),
        ({"training": {"report_to": ["wandb", "paper"]}}, "training.report_to: found 'paper'; expected"),
        (
            {"objective": {"kind": "dqo"}},
            "objective.kind: found 'dqo'; expected one of 'sft', 'dpo', 'reward', 'grpo', 'ppo', 'rlhf'",
        ),
        ({"objective": {"kind": "grpo"}}, "objective.reward is missing: the folder of a reward run, path.py:function"),
        ({"objective": {"kind": "ppo", "reward": []}}, "objective.reward is missing"),
        (
            {"objective": {"kind": "grpo", "reward": ["a:b", "a:c"], "reward_weights": [1.0]}},
            "objective.reward_weights: 1 for 2 rewards; give one for each",
        ),
        (
            {"objective": {"kind": "rlhf", "policy": {"kind": "grpo", "reward": "a:b"}}},
            "rlhf trains the reward model itself; remove policy.reward, or use kind: grpo",
        ),
        (
            {"objective": {"kind": "reward"}, "adapter": {"kind": "prompt"}},
            "adapter.kind prompt cannot carry a reward model: its new head must learn",
        ),
        (
            {"objective": {"kind": "ppo", "reward": "a:b"}, "adapter": {"init": "pissa"}},
            "adapter.init pissa takes a part of the base's weights, and ppo needs the base as its reference",
        ),
        *(
            (
                {"objective": {"kind": "ppo", "reward": "a:b", "vllm_url": url}},
                f"objective.vllm_url: {url} is no server's",
            )
            for url in ("localhost:8001", "http://")
        ),
        *(
            (
                {"objective": {"kind": "grpo", "reward": "a:b", "vllm_url": "http://h/v1"}} | sections,
                f"objective.vllm_url does not go with {why}",
            )
            for sections, why in (
                (
                    {"adapter": {"kind": "full"}},
                    "adapter.kind full (a running vLLM takes new weights as a LoRA adapter",
                ),
                ({"adapter": {"kind": "prompt"}}, "adapter.kind prompt (a running vLLM takes new weights as a LoRA"),
                ({"adapter": {"kind": "qlora"}}, "adapter.kind qlora (vLLM's base is not the one in 4 bits that"),
                ({"adapter": {"dora": True}}, "adapter.dora (vLLM does not know it); remove it"),
                ({"engine": "trl"}, "engine: trl (TRL hands on whole weights, to a vLLM that is started for that)"),
            )
        ),
        (
            {
                "objective": {"kind": "rlhf", "policy": {"kind": "ppo", "vllm_url": "http://h/v1"}},
                "adapter": {"kind": "full"},
            },
            "objective.vllm_url does not go with adapter.kind full",
        ),
        (
            {"objective": {"kind": "dpo"}, "data": {"train": "a.jsonl", "replay": "b.jsonl"}},
            "data.replay is for objective sft: dpo does not imitate replies; remove it",
        ),
    ],
)
def test_an_objective_that_makes_no_sense_is_refused_with_the_reason(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        parse_spec(minimal(**sections))


@pytest.mark.parametrize("kind", list(ADAPTER_OPTIONS))
@pytest.mark.parametrize("loss_type", ["sigmoid", "simpo", "kto"])
def test_a_written_spec_reads_as_the_same_whatever_its_kinds(kind: str, loss_type: str) -> None:
    spec = parse_spec(minimal(adapter={"kind": kind}, objective={"kind": "dpo", "loss_type": loss_type}))
    again = parse_spec(yaml.safe_load(dump_spec(spec)))
    assert dump_spec(again) == dump_spec(spec)
    assert again.adapter == spec.adapter
    assert again.objective == spec.objective


def minimal(**sections: object) -> dict[str, Any]:
    return {"model": "embedded", "data": {"train": "rows.jsonl"}, "output": "run"} | sections


@pytest.mark.parametrize("page", ["docs/run-spec.md", "docs/how-to/train.md"])
def test_the_specs_in_the_documentation_are_valid(page: str) -> None:
    text = (Path(__file__).parent.parent / page).read_text()
    specs = re.findall(r"```yaml\n(model: .*?)```", text, re.DOTALL)
    assert specs
    for spec in specs:
        parse_spec(yaml.safe_load(spec), name=page)
