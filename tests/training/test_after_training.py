"""What comes after training, by adapter and objective: merging, evaluating, or a refusal that says why."""

from pathlib import Path

import pytest
import torch

from tunesmith import api
from tunesmith.assets import sample
from tunesmith.errors import RunError, SpecError
from tunesmith.exporting.merge import logit_difference
from tunesmith.models.load import load_model, load_tuned
from tunesmith.run_folder import RunFolder
from tunesmith.spec import parse_spec


def train(tmp_path: Path, adapter: str, objective: dict[str, object]) -> RunFolder:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(sample("preference").read_text().splitlines(keepends=True)[:20]))
    spec = parse_spec(
        {
            "model": "embedded",
            "data": {"train": str(rows)},
            "adapter": {"kind": adapter},
            "objective": objective,
            "training": {"steps": 2, "batch_size": 4, "max_length": 96, "learning_rate": 3e-3},
            "output": str(tmp_path / "run"),
        }
    )
    return api.train(spec).run


@pytest.mark.slow
def test_a_quantized_run_merges_into_ordinary_weights_that_say_the_same(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    run = train(tmp_path, "qlora", {"kind": "dpo"})
    assert run.report.is_file()
    merged = load_model(str(api.export(run.root, to="merged")), dtype=torch.float32)
    assert not hasattr(merged.config, "quantization_config")
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        expected = load_tuned(run, dtype=torch.float32, dequantize=True)(input_ids=ids).logits
        quantized = load_tuned(run, dtype=torch.float32)(input_ids=ids).logits
        found = merged(input_ids=ids).logits
    assert logit_difference([expected], [found]) < 2.0**-5  # written in bf16
    assert logit_difference([quantized], [found]) < 2.0**-4  # and multiplied in bf16


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_soft_tokens_are_evaluated_but_have_no_weights_to_merge(kind: str, tmp_path: Path) -> None:
    run = train(tmp_path, kind, {"kind": "sft"})
    assert api.evaluate(run.root).rows > 0
    with pytest.raises(SpecError, match="merge"):
        api.export(run.root, to="merged")


@pytest.mark.slow
def test_a_reward_model_is_not_evaluated_as_one_that_replies(tmp_path: Path) -> None:
    run = train(tmp_path, "lora", {"kind": "reward"})
    assert run.report.is_file()
    with pytest.raises(RunError, match=r"a reward model scores replies and writes none; name it as objective\.reward"):
        api.evaluate(run.root)
