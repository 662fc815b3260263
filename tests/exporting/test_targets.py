"""Every target of `export`, from one run of the embedded model, as other programs read it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tunesmith import api, storage
from tunesmith.errors import SpecError
from tunesmith.models.load import EMBEDDED, load_model
from tunesmith.run_folder import RunFolder
from tunesmith.spec import dump_spec, parse_spec


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run on the embedded model, with a random adapter; its rows share a system prompt."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "tickets")
    turns = [("system", "Answer with one word."), ("user", "My parcel is late."), ("assistant", "shipping")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    storage.write_text(run.holdout, json.dumps(row) + "\n")
    values = {"model": EMBEDDED, "data": {"train": str(run.holdout)}, "output": str(run.root)}
    storage.write_text(run.spec, dump_spec(parse_spec(values)))
    torch.manual_seed(0)
    model = get_peft_model(
        load_model(EMBEDDED, dtype=torch.float32), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(run.adapter)
    return run


@pytest.fixture
def run(finished: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(finished.root, tmp_path / "tickets"))


def read_gguf(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    return tensors, {name: field.contents() for name, field in reader.fields.items()}


def test_the_gguf_file_holds_the_merged_weights_and_a_card_lies_beside_it(run: RunFolder) -> None:
    pytest.importorskip("gguf")
    path = api.export(run.root, to="gguf", outtype="bf16")
    merged = load_file(api.export(run.root, to="merged") / "model.safetensors")
    tensors, fields = read_gguf(path)
    assert path == run.root / "gguf" / "tickets-BF16.gguf"
    expected = merged["model.layers.0.mlp.down_proj.weight"].float().numpy()
    assert np.array_equal(tensors["blk.0.ffn_down.weight"], expected)  # bf16 in, bf16 out
    assert fields["general.name"] == "tickets"
    card = (path.parent / "README.md").read_text()
    assert "library_name: gguf" in card
    assert "llama-cli -m tickets-BF16.gguf" in card
    assert not list(run.root.glob(".merge*"))


def test_the_ollama_folder_has_weights_template_stops_and_system_prompt(run: RunFolder) -> None:
    pytest.importorskip("gguf")
    folder = api.export(run.root, to="ollama", outtype="q8_0")
    text = (folder / "Modelfile").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["Modelfile", "README.md", "tickets-Q8_0.gguf"]
    assert text.startswith("FROM ./tickets-Q8_0.gguf\n")
    assert 'PARAMETER stop "<|im_end|>"\nSYSTEM """Answer with one word."""\n' in text


def test_the_adapter_folder_loads_in_peft_and_names_no_folder_of_this_machine(run: RunFolder) -> None:
    folder = api.export(run.root, to="adapter")
    base = load_model(EMBEDDED, dtype=torch.float32)
    assert isinstance(PeftModel.from_pretrained(base, folder), PeftModel)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    assert "license: apache-2.0" in (folder / "README.md").read_text()


def test_merged_weights_are_cut_into_shards_that_load_as_one(run: RunFolder) -> None:
    folder = api.export(run.root, max_shard_size="3MB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert (folder / "model.safetensors.index.json").is_file()
    load_model(str(folder), dtype=torch.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "onnx"}, "--to onnx: not a known target; use merged, gguf, ollama, adapter"),
        ({"to": "gguf", "outtype": "q4_k"}, "--outtype q4_k: not a known type; use f16, bf16, q8_0"),
        ({"max_shard_size": "big"}, "--max-shard-size big: write it as a number and KB, MB or GB"),
    ],
)
def test_bad_options_are_refused(run: RunFolder, options: dict[str, str], message: str) -> None:
    before = sorted(run.root.rglob("*"))
    with pytest.raises(SpecError, match=message):
        api.export(run.root, **options)
    assert sorted(run.root.rglob("*")) == before
