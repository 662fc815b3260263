"""Which parameters learn: all of them (`full`), LoRA matrices beside frozen ones (`lora`, and `qlora` on a base in
4 bits), or vectors put before the input (`prompt`) or before every layer's keys and values (`prefix`); all PEFT's.

LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) adds B·A of rank r to a frozen matrix; B starts at zero, so
the model with a new adapter is exactly its base. Options: rsLoRA (https://arxiv.org/abs/2312.03732), DoRA
(https://arxiv.org/abs/2402.09353) and PEFT's initializations. A soft prompt starts as tokens of the vocabulary, the
better start of Lester et al. 2021 (https://arxiv.org/abs/2104.08691). An adapter stays in fp32 even where the base is
bf16: it is small, and its updates are too fine for bf16's 8 bits.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    PromptTuningInit,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
)
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ModelError, SpecError
from tunesmith.models.quiet import quiet
from tunesmith.spec import AdapterSpec


@dataclass(frozen=True)
class ParameterCount:
    """How many parameters learn, out of how many."""

    trainable: int
    total: int

    def __str__(self) -> str:
        return f"trainable: {self.trainable:,} of {self.total:,} ({self.trainable / self.total:.2%})"


def attach(model: PreTrainedModel, spec: AdapterSpec, *, seed: int = 0) -> PreTrainedModel | PeftModel:
    """`model` with the parameters of `spec` set to learn; a new adapter's weights depend only on `seed`.

    Raises SpecError when `adapter.targets` names modules that the model does not have, ModelError when PEFT cannot
    adapt the architecture.
    """
    if spec.kind == "full":
        return model.requires_grad_(True)
    config = _peft_config(model, spec)
    torch.manual_seed(seed)
    try:
        with quiet():
            adapted = get_peft_model(model, config)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"adapter.kind: {spec.kind} cannot adapt a {model.config.model_type} model: {error}"
        ) from error
    assert isinstance(adapted, PeftModel)  # noqa: S101  # PEFT's mixed models need mixed=True
    return adapted


def adapter_start(model: PreTrainedModel | PeftModel, spec: AdapterSpec) -> dict[str, torch.Tensor] | None:
    """A new adapter's weights, to give to `save_adapter`, where they hold a part of the base's; None elsewhere."""
    if not isinstance(model, PeftModel) or not spec.rewrites_base:
        return None
    return {name: value.detach().clone() for name, value in get_peft_model_state_dict(model).items()}


def save_adapter(model: PeftModel, folder: Path, start: dict[str, torch.Tensor] | None) -> None:
    """Write the adapter in PEFT's format; with `start`, as the plain LoRA of twice the rank that fits the true base."""
    if start is None:
        model.save_pretrained(str(folder), save_embedding_layers=False)
        return
    with TemporaryDirectory() as before:
        save_file(start, Path(before) / SAFETENSORS_WEIGHTS_NAME)
        model.save_pretrained(str(folder), save_embedding_layers=False, path_initial_model_for_weight_conversion=before)
    # PEFT converts the matrices, and leaves out what learns beside them: the head of a reward model.
    weights = folder / SAFETENSORS_WEIGHTS_NAME
    beside = {name: value.contiguous() for name, value in get_peft_model_state_dict(model).items()}
    save_file(beside | load_file(weights), weights)


def count_parameters(model: PreTrainedModel | PeftModel) -> ParameterCount:
    """Trainable and total parameters as the field counts them (tied weights once, the adapter's included)."""
    if isinstance(model, PeftModel):
        return ParameterCount(*model.get_nb_trainable_parameters())
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return ParameterCount(sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes))


def _peft_config(model: PreTrainedModel, spec: AdapterSpec) -> PeftConfig:
    # A reward model's new scalar head learns beside its adapter: PEFT knows that from the task.
    task = TaskType.SEQ_CLS if hasattr(model, "score") else TaskType.CAUSAL_LM
    match spec.kind:
        case "prefix":
            return PrefixTuningConfig(task_type=task, num_virtual_tokens=spec.virtual_tokens)
        case "prompt":
            return PromptTuningConfig(
                task_type=task,
                num_virtual_tokens=spec.virtual_tokens,
                prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
            )
        case _:
            targets = spec.targets if isinstance(spec.targets, str) else list(spec.targets)
            if isinstance(targets, list):
                _check_targets(model, targets)
            return LoraConfig(
                task_type=task,
                r=spec.r,
                lora_alpha=spec.alpha,  # type: ignore[arg-type]  # PEFT declares int and computes with floats
                lora_dropout=spec.dropout,
                target_modules=targets,
                use_rslora=spec.rslora,
                use_dora=spec.dora,
                init_lora_weights=True if spec.init == "default" else spec.init,  # type: ignore[arg-type]
            )


def _check_targets(model: PreTrainedModel, targets: list[str]) -> None:
    """Raise SpecError unless each of `targets` names, as PEFT reads it, matrices of `model` and nothing else."""
    modules = dict(model.named_modules())
    linear = {name.rpartition(".")[2] for name, module in modules.items() if isinstance(module, nn.Linear | Conv1D)}
    known = f"it has {', '.join(sorted(linear))} (or: all-linear)"
    for target in targets:
        found = [module for name, module in modules.items() if name == target or name.endswith(f".{target}")]
        if not found:
            raise SpecError(f"adapter.targets: the model has no module `{target}`; {known}")
        for module in found:
            if not isinstance(module, nn.Linear | Conv1D | nn.Embedding):
                raise SpecError(f"adapter.targets: `{target}` is a {type(module).__name__}, no matrix; {known}")
