"""The tuned model as one GGUF file, for llama.cpp and everything built on it.

The adapter is merged (and the merge checked) first; then each tensor is read, converted and written by itself, so
memory holds one of them. Matrices take the asked-for type; vectors and norms stay fp32, as llama.cpp wants them.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tunesmith import storage
from tunesmith.errors import MissingDependencyError, ModelError, SpecError
from tunesmith.exporting import gguf_architecture as shape
from tunesmith.exporting.card import card_text
from tunesmith.exporting.gguf_vocabulary import check_tokenizer, write_vocabulary
from tunesmith.exporting.merge import merge
from tunesmith.models.load import load_tokenizer, resolve_model
from tunesmith.run_folder import RunFolder

if TYPE_CHECKING:
    import torch
    from gguf import GGMLQuantizationType, GGUFWriter

OutType: TypeAlias = Literal["f16", "bf16", "q8_0"]
"""Of the matrices: half precision, bfloat16, or 8 bits with one fp16 scale per 32 values."""


@dataclass(frozen=True)
class _Place:
    """One tensor: its name in GGUF, its name and file in safetensors."""

    name: str
    tensor: str
    file: Path
    dimensions: tuple[int, ...]


PROBE_ROWS = 64
"""Rows of the run's own data on which the tokenizer of the file must agree."""


def write_gguf(run: RunFolder, output: Path | None = None, *, outtype: OutType = "f16") -> Path:
    """Write the tuned model of `run` as a file in the folder `output` (default: `RUN/gguf`) and return its path.

    Its name is `NAME-OUTTYPE.gguf`; the model card goes beside it where there is none. Raises SpecError when the file
    exists, ModelError when llama.cpp has no exact twin of the model or its tokenizer, MissingDependencyError without
    the `gguf` package; nothing is left behind then.
    """
    must_have_gguf()
    target = (run.root / "gguf" if output is None else output) / gguf_name(run, outtype)
    if target.exists():
        raise SpecError(f"{target}: exists; remove it, or choose another folder with --output")
    storage.must_be_writable(target.parent)
    texts = _texts(run)
    _check_base(run, texts)
    with tempfile.TemporaryDirectory(prefix=".merge.", dir=run.root) as folder:
        model = merge(run, Path(folder) / "merged")
        with storage.atomic_file(target) as temporary:
            convert_folder(model, temporary, name=_name(run), outtype=outtype, texts=texts)
    card = target.with_name("README.md")
    if not card.exists():
        storage.write_text(card, card_text(run, form="gguf", weights=target.name))
    return target


def gguf_name(run: RunFolder, outtype: OutType) -> str:
    """The file's name by the ecosystem's convention."""
    return f"{_name(run)}-{outtype.upper()}.gguf"


def must_have_gguf() -> None:
    """Raise MissingDependencyError when the `gguf` package is not installed."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "--to gguf: the `gguf` package is missing; pip install 'tunesmith[gguf]'"
        ) from error


def convert_folder(model: Path, target: Path, *, name: str, outtype: OutType, texts: Sequence[str] = ()) -> None:
    """Write the model folder `model` (safetensors, Hugging Face's layout) as the GGUF file `target`.

    `texts` are rows on which llama.cpp's tokenizer must agree with the model's. Raises ModelError.
    """
    import gguf

    from tunesmith.evaluation.generate import turn_end

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    architecture = shape.find_architecture(config)
    places = _places(model, architecture, config["num_hidden_layers"])
    factors = shape.rope_factors(config)
    writer = gguf.GGUFWriter(target, architecture.name)
    try:
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(name)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{outtype.upper()}"])
        shape.write_parameters(writer, config)
        end = turn_end(load_tokenizer(str(model)))
        write_vocabulary(writer, model, vocabulary_size=config["vocab_size"], turn_end=end, texts=texts)
        # GGUF holds the names and sizes of all tensors before any data.
        if factors is not None:
            _announce(writer, "rope_freqs.weight", tuple(factors.shape), outtype)
        for place in places:
            _announce(writer, place.name, place.dimensions, outtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors.numpy())
        for place in places:
            weights = shape.convert(place.tensor, _read(place), config, architecture)
            writer.write_tensor_data(_encode(weights, tensor_type(place.name, place.dimensions, outtype)))
    finally:
        writer.close()


def _check_base(run: RunFolder, texts: Sequence[str]) -> None:
    """Raise ModelError before the minutes that a merge takes."""
    from transformers import AutoConfig

    model = run.load_spec().model
    config = AutoConfig.from_pretrained(resolve_model(model), trust_remote_code=False)
    shape.find_architecture(config.to_dict())
    core = getattr(load_tokenizer(model), "backend_tokenizer", None)
    if core is None:
        raise ModelError(f"model {model}: its tokenizer has no tokenizer.json to write into a GGUF file")
    check_tokenizer(core, texts)


def tensor_type(name: str, dimensions: tuple[int, ...], outtype: OutType) -> "GGMLQuantizationType":
    """How the tensor is stored: fp32 for vectors and norms; fp16 where rows do not fill the blocks of Q8_0."""
    import gguf

    if len(dimensions) < 2 or name.endswith("_norm.weight"):
        return gguf.GGMLQuantizationType.F32
    wanted = gguf.GGMLQuantizationType[outtype.upper()]
    if dimensions[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
        return gguf.GGMLQuantizationType.F16
    return wanted


def _announce(writer: "GGUFWriter", name: str, dimensions: tuple[int, ...], outtype: OutType) -> None:
    import gguf

    kind = tensor_type(name, dimensions, outtype)
    block_values, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    size = int(np.prod(dimensions)) // block_values * block_bytes
    writer.add_tensor_info(name, dimensions, np.dtype(np.float32), size, raw_dtype=kind)


def _encode(values: "torch.Tensor", kind: "GGMLQuantizationType") -> NDArray[np.generic]:
    import gguf

    encoded: NDArray[np.generic] = gguf.quants.quantize(values.float().contiguous().numpy(), kind)
    return encoded


def _places(model: Path, architecture: shape.Architecture, layers: int) -> list[_Place]:
    """Where each tensor of the folder's safetensors goes. Raises ModelError for one that llama.cpp does not know."""
    import gguf
    from safetensors import safe_open

    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(kind, layers)
    places = []
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            for tensor in sorted(tensors.keys()):
                name = names.get_name(tensor, try_suffixes=(".weight", ".bias"))
                if name is None:
                    raise ModelError(f"{model}: llama.cpp's {architecture.name} has no place for the tensor {tensor}")
                places.append(_Place(name, tensor, file, tuple(tensors.get_slice(tensor).get_shape())))
    return places


def _read(place: _Place) -> "torch.Tensor":
    from safetensors import safe_open

    with safe_open(str(place.file), framework="pt") as tensors:
        weights: torch.Tensor = tensors.get_tensor(place.tensor)
    return weights


def _texts(run: RunFolder) -> list[str]:
    """Message texts of the run's own rows."""
    import itertools

    from tunesmith.dataset.conversation import Conversation
    from tunesmith.dataset.read import read

    spec = run.load_spec()
    path = str(run.holdout) if run.holdout.is_file() else spec.data.eval or spec.data.train
    rows = itertools.islice((row for row in read(path) if isinstance(row, Conversation)), PROBE_ROWS)
    return [text for row in rows for text in (row.text or "", *(message.content for message in row.messages)) if text]


def _name(run: RunFolder) -> str:
    return run.root.resolve().name
