import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunesmith.assets import embedded_model
from tunesmith.errors import ModelError
from tunesmith.models.load import load_model, load_tokenizer, resolve_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model."""
    shutil.copytree(embedded_model(), tmp_path / "model")
    return tmp_path / "model"


def test_embedded_is_the_folder_in_the_package() -> None:
    assert resolve_model("embedded") == str(embedded_model())


def test_a_hub_id_is_left_to_transformers() -> None:
    assert resolve_model("meta-llama/Llama-3.1-8B") == "meta-llama/Llama-3.1-8B"


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "the folder has no config.json"),
        ("model.safetensors", r"the folder has no \*\.safetensors weights"),
        ("tokenizer.json", "the folder has no tokenizer"),
    ],
)
def test_an_incomplete_folder_says_what_it_lacks(folder: Path, missing: str, message: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=message):
        resolve_model(str(folder))


def test_a_file_is_not_a_model(folder: Path) -> None:
    with pytest.raises(ModelError, match="this is a file; give the folder"):
        resolve_model(str(folder / "config.json"))


def test_a_path_that_is_nowhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        resolve_model(str(tmp_path / "nowhere"))


def test_a_model_is_in_evaluation_mode_and_in_the_asked_dtype() -> None:
    model = load_model("embedded", dtype=torch.bfloat16)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_tokenizer_brings_its_chat_template() -> None:
    assert load_tokenizer("embedded").chat_template


def test_weights_with_a_gap_are_refused_and_not_filled_at_random(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    save_file({key: value for key, value in weights.items() if key != name}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"its weights lack {name}"):
        load_model(str(folder), dtype=torch.float32)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_file_is_one_line_that_names_the_model(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"cut off")
    with pytest.raises(ModelError) as caught:
        load_tokenizer(str(folder))
        load_model(str(folder), dtype=torch.float32)
    assert str(caught.value).startswith(f"model {folder}: cannot load the ")
    assert "\n" not in str(caught.value)


def test_loading_draws_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    load_model("embedded", dtype=torch.float32)
    assert capfd.readouterr() == ("", "")


def test_a_4_bit_base_that_was_evaluated_passes_the_same_gradients_on() -> None:
    pytest.importorskip("bitsandbytes")
    model = load_model("embedded", dtype=torch.float32, quantize=True)
    embedding = model.get_input_embeddings().requires_grad_(True)
    ids = torch.arange(5, 37).unsqueeze(0)  # (1, tokens)

    def gradient() -> torch.Tensor:
        embedding.weight.grad = None
        model.train()(input_ids=ids, labels=ids).loss.backward()
        assert embedding.weight.grad is not None
        return embedding.weight.grad

    before = gradient()
    with torch.no_grad():
        model.eval()(input_ids=ids)
    torch.testing.assert_close(gradient(), before)
