"""Base models and tokenizers: the embedded one, a folder in Hugging Face's layout, or a hub id.

Weights are read from safetensors only and a model's own Python code is never run: a model is data. A folder is
checked before anything heavy is imported, so a wrong path costs milliseconds, not a model load.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tunesmith.errors import MissingDependencyError, ModelError, RunError
from tunesmith.models.quiet import quiet
from tunesmith.run_folder import RunFolder

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import (
        BitsAndBytesConfig,
        GenerationConfig,
        PretrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

    Model: TypeAlias = PreTrainedModel | PeftModel

EMBEDDED = "embedded"

PLAIN_TEMPLATE = (
    "{% for message in messages %}### {{ message.role }}:\n{{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token or '' }}{% endif %}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
"""For base models: roles as headings, replies ended by the tokenizer's own end of sequence; no new tokens to learn."""

log = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


def resolve_model(ref: str) -> str:
    """What transformers loads for `ref`: the embedded model's folder, the folder itself, or the hub id as it is.

    Raises ModelError when a folder is missing or lacks its config, weights or tokenizer. A hub id is not looked up.
    """
    if ref == EMBEDDED:
        from tunesmith.assets import embedded_model

        return str(embedded_model())
    folder = Path(ref).expanduser()
    if folder.is_dir():
        _check_folder(ref, folder)
        return str(folder)
    if folder.exists():
        raise ModelError(f"model {ref}: this is a file; give the folder that holds config.json, or a hub id")
    if not _HUB_ID.fullmatch(ref):
        raise ModelError(
            f"model {ref}: no such folder; give a model folder, a hub id such as org/name, or `{EMBEDDED}`"
        )
    return ref


def load_tokenizer(ref: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of `ref`; one without a chat template gets `PLAIN_TEMPLATE`, with a warning.

    Raises ModelError when it cannot be found or read.
    """
    path = resolve_model(ref)
    with quiet(), _model_errors(ref, "the tokenizer"):
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if not tokenizer.chat_template:
        log.warning(
            "model %s: no chat template, as in most base models; using a plain one (### user: …), "
            "which is saved with the tuned model",
            ref,
        )
        tokenizer.chat_template = PLAIN_TEMPLATE
    return tokenizer


def load_configs(ref: str) -> "tuple[PretrainedConfig, GenerationConfig]":
    """What a model says of itself and of how it generates, without its weights. Raises ModelError."""
    from transformers import AutoConfig, GenerationConfig

    place = resolve_model(ref)
    with _model_errors(ref, "its configuration"):
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    try:
        return config, GenerationConfig.from_pretrained(place)
    except OSError:  # it has none of its own
        return config, GenerationConfig.from_model_config(config)


def load_model(
    ref: str,
    *,
    dtype: "torch.dtype | Literal['auto']",
    device: "torch.device | str" = "cpu",
    quantize: bool = False,
    scalar_head: bool = False,
) -> "PreTrainedModel":
    """The causal language model `ref` in `dtype` (`auto`: that of its files) on `device`, in evaluation mode.

    On a CPU, weights whose dtype stays are not read but mapped from the files.

    With `scalar_head`, a head with one output takes the place of the vocabulary's: a reward model. Where the weights
    have no such head it is new, drawn from torch's random state.

    With `quantize`, its linear layers but the head are held in NF4 with double quantization and multiplied in bf16
    (QLoRA, https://arxiv.org/abs/2305.14314).
    Raises ModelError when it cannot be found or read, or when its weights are incomplete: transformers would fill
    the gaps with random numbers, which trains but means nothing. Raises MissingDependencyError without bitsandbytes.
    """
    path = resolve_model(ref)
    options: dict[str, Any] = {"quantization_config": _nf4(), "device_map": {"": device}} if quantize else {}
    with quiet(), _model_errors(ref, "the model"):
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        if scalar_head:
            options["num_labels"] = 1
        kind: Any = AutoModelForSequenceClassification if scalar_head else AutoModelForCausalLM
        # Any: transformers' types leave out that output_loading_info makes it a pair.
        pair: Any = kind.from_pretrained(
            path, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **options
        )
    model, info = pair
    missing = sorted(key for key in info["missing_keys"] if not (scalar_head and key == "score.weight"))
    if missing:
        raise ModelError(
            f"model {ref}: its weights lack {missing[0]}{_and_more(missing)}; give a complete causal language model"
        )
    if quantize:
        stay_differentiable(model)
    else:
        model.to(device)
    if scalar_head and model.config.get_text_config().pad_token_id is None:
        model.config.get_text_config().pad_token_id = 0  # transformers asks for one; the engine does not read by it
    loaded: PreTrainedModel = model.eval()
    return loaded


def stay_differentiable(model: "torch.nn.Module") -> None:
    """Keep bitsandbytes from repacking 4-bit weights when they are first evaluated on a CPU that multiplies bf16.

    It never unpacks them, and products with packed weights pass no gradient on: adapters of the layers below would
    learn next to nothing.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False


def load_tuned(
    run: RunFolder, *, dtype: "torch.dtype", device: "torch.device | str" = "cpu", dequantize: bool = False
) -> "Model":
    """The model that the run trained: its base with the adapter attached, or the fully fine-tuned model.

    With an adapter, `model.disable_adapter()` gives the base back. The base of a `qlora` run is quantized, as it was
    in training; `dequantize` gives it ordinary weights with the same quantized values, which an adapter can be merged
    into. Raises ModelError, RunError or MissingDependencyError.
    """
    spec = run.load_spec()
    if spec.objective.kind == "reward":
        raise RunError(
            f"{run.root}: a reward model scores replies and writes none; name it as objective.reward of a grpo or "
            "ppo run"
        )
    if run.model.is_dir():
        return load_model(str(run.model), dtype=dtype, device=device)
    quantized = spec.adapter.kind == "qlora"
    base = load_model(spec.model, dtype=dtype, device=device, quantize=quantized)
    if quantized and dequantize:
        base = base.dequantize().to(dtype)  # type: ignore[no-untyped-call]
    return with_adapter(base, run.adapter, device=device)


def load_reward_model(run: RunFolder, *, dtype: "torch.dtype", device: "torch.device | str" = "cpu") -> "Model":
    """The reward model of a run with objective.kind reward: one output per token. Raises as `load_tuned`."""
    if run.model.is_dir():
        return load_model(str(run.model), dtype=dtype, device=device, scalar_head=True)
    spec = run.load_spec()
    quantized = spec.adapter.kind == "qlora"
    base = load_model(spec.model, dtype=dtype, device=device, quantize=quantized, scalar_head=True)
    return with_adapter(base, run.adapter, device=device)


def with_adapter(base: "PreTrainedModel", adapter: Path, *, device: "torch.device | str" = "cpu") -> "PeftModel":
    """`base` with the adapter in the folder `adapter` (PEFT's format) attached. Raises ModelError."""
    with quiet(), _model_errors(str(adapter), "the adapter"):
        from peft import PeftModel

        tuned = PeftModel.from_pretrained(base, str(adapter), autocast_adapter_dtype=False)
    loaded: PeftModel = tuned.to(device=device).eval()
    return loaded


def _nf4() -> "BitsAndBytesConfig":
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError(
            "adapter.kind: qlora needs bitsandbytes: pip install 'tunesmith[qlora]'; or use adapter.kind: lora"
        )
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["lm_head", "score"],
    )


def _check_folder(ref: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"model {ref}: the folder has no config.json; give a model folder in Hugging Face's layout")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"model {ref}: the folder has no *.safetensors weights; save the model as safetensors")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(f"model {ref}: the folder has no tokenizer; copy its tokenizer.json there")


@contextmanager
def _model_errors(ref: str, what: str) -> Iterator[None]:
    """Loading fails in as many ways as there are libraries below; the person needs the model's name and the cause."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if not Path(ref).expanduser().exists() and ref != EMBEDDED:
            raise ModelError(
                f"model {ref}: no such folder, and the hub and its local cache could not give {what}; "
                "check the name, the network, and for a gated model your access"
            ) from error
        cause = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"model {ref}: cannot load {what}: {cause}") from error


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
