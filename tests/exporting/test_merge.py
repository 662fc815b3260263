"""The merged folder loads in plain transformers and says what base + adapter say."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.errors import RunError, SpecError
from tunesmith.exporting import merge as module
from tunesmith.exporting.merge import TOLERANCE, logit_difference, merge
from tunesmith.run_folder import RunFolder

MakeRun = Callable[..., RunFolder]
INPUT = torch.tensor([[2, 5, 6, 7, 8, 9, 4, 1, 3]])


def logits(model: torch.nn.Module) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [model.eval()(INPUT).logits]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_weights_give_the_logits_of_base_and_adapter_in_the_dtype_of_the_base(
    make_run: MakeRun, dtype: torch.dtype
) -> None:
    run = make_run(dtype=dtype)
    assert merge(run) == run.merged
    base = AutoModelForCausalLM.from_pretrained(run.load_spec().model, dtype=torch.float32)
    before = logits(base)
    expected = logits(PeftModel.from_pretrained(base, run.adapter))
    merged = AutoModelForCausalLM.from_pretrained(run.merged, dtype="auto")
    assert merged.dtype == dtype
    difference = logit_difference(expected, logits(merged.float()))
    assert difference <= TOLERANCE[str(dtype).removeprefix("torch.")]
    assert logit_difference(expected, before) > 0.1  # the adapter matters, so the check above means something


def test_the_merged_folder_brings_its_tokenizer_and_chat_template(make_run: MakeRun) -> None:
    run = make_run()
    merge(run)
    tokenizer = AutoTokenizer.from_pretrained(run.merged)
    turns = [{"role": "user", "content": "is it red ?"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True).startswith("<|user|> is it")
    assert not list(run.merged.glob("adapter*"))
    assert {path.suffix for path in run.merged.iterdir()} <= {".json", ".safetensors", ".jinja", ".md"}


def test_a_fully_tuned_model_is_exported_in_the_dtype_of_its_base(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(kind="full", dtype=torch.bfloat16)
    output = merge(run, tmp_path / "elsewhere")
    exported = AutoModelForCausalLM.from_pretrained(output, dtype="auto")
    tuned = AutoModelForCausalLM.from_pretrained(run.model, dtype=torch.float32)
    assert exported.dtype == torch.bfloat16
    assert logit_difference(logits(tuned), logits(exported.float())) <= TOLERANCE["bfloat16"]


def test_an_output_that_holds_something_is_refused_and_kept(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    output = tmp_path / "precious"
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    with pytest.raises(SpecError, match=r"precious: already holds something.*--output"):
        merge(run, output)
    assert [path.name for path in output.iterdir()] == ["thesis.txt"]


def test_a_merge_that_changes_the_logits_leaves_nothing_behind(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    # The adapter dropped instead of merged: the mistake the check is there for.
    monkeypatch.setattr(module, "_without_adapter", lambda tuned: tuned.unload())
    with pytest.raises(RunError, match="differ from base \\+ adapter"):
        merge(run)
    assert not run.merged.exists()
    assert not [path for path in run.root.iterdir() if "merged" in path.name]


def test_an_adapter_on_tied_embeddings_is_refused(make_run: MakeRun) -> None:
    run = make_run(targets=["q_proj", "lm_head"], tie_word_embeddings=True)
    with pytest.raises(RunError, match="tied embeddings"):
        merge(run)
    assert not run.merged.exists()
