"""Base models and tokenizers: the embedded one, a folder in Hugging Face's layout, or a hub id.

Weights are read from safetensors only and a model's own Python code is never run: a model is data. A folder is
checked before anything heavy is imported, so a wrong path costs milliseconds, not a model load.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tunesmith.errors import ModelError
from tunesmith.models.quiet import quiet
from tunesmith.run_folder import RunFolder

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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


def load_model(ref: str, *, dtype: "torch.dtype", device: "torch.device | str" = "cpu") -> "PreTrainedModel":
    """The causal language model `ref` in `dtype` on `device`, in evaluation mode.

    Raises ModelError when it cannot be found or read, or when its weights are incomplete: transformers would fill
    the gaps with random numbers, which trains but means nothing.
    """
    path = resolve_model(ref)
    with quiet(), _model_errors(ref, "the model"):
        from transformers import AutoModelForCausalLM

        # Any: transformers' types leave out that output_loading_info makes it a pair.
        pair: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    model, info = pair
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"model {ref}: its weights lack {missing[0]}{_and_more(missing)}; give a complete causal language model"
        )
    model.to(device)
    loaded: PreTrainedModel = model.eval()
    return loaded


def load_tuned(run: RunFolder, *, dtype: "torch.dtype", device: "torch.device | str" = "cpu") -> "Model":
    """The model that the run trained: its base with the adapter attached, or the fully fine-tuned model.

    With an adapter, `model.disable_adapter()` gives the base back. Raises ModelError or RunError.
    """
    if run.model.is_dir():
        return load_model(str(run.model), dtype=dtype, device=device)
    base = load_model(run.load_spec().model, dtype=dtype, device=device)
    with quiet(), _model_errors(str(run.adapter), "the adapter"):
        from peft import PeftModel

        tuned = PeftModel.from_pretrained(base, str(run.adapter), autocast_adapter_dtype=False)
    loaded: PeftModel = tuned.to(device=device).eval()
    return loaded


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
