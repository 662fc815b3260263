"""Which parameters learn: all of them (`full`), or LoRA matrices beside frozen ones (PEFT).

LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) adds B·A of rank r to a frozen matrix; B starts at zero, so
the model with a new adapter is exactly its base. The adapter stays in fp32 even where the base is bf16: it is small,
and its updates are too fine for bf16's 8 bits.
"""

from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from tunesmith.errors import SpecError
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

    Raises SpecError when `adapter.targets` names modules that the model does not have.
    """
    if spec.kind == "full":
        return model.requires_grad_(True)
    targets = spec.targets if isinstance(spec.targets, str) else list(spec.targets)
    if isinstance(targets, list):
        _check_targets(model, targets)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=spec.r,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # PEFT declares int and computes with floats
        lora_dropout=spec.dropout,
        target_modules=targets,
    )
    torch.manual_seed(seed)
    with quiet():
        adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)  # noqa: S101  # PEFT's mixed models need mixed=True
    return adapted


def count_parameters(model: PreTrainedModel | PeftModel) -> ParameterCount:
    """Trainable and total parameters as the field counts them (tied weights once, the adapter's included)."""
    if isinstance(model, PeftModel):
        return ParameterCount(*model.get_nb_trainable_parameters())
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return ParameterCount(sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes))


def _check_targets(model: PreTrainedModel, targets: list[str]) -> None:
    linear = sorted(
        {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    )
    names = [name for name, _ in model.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise SpecError(
                f"adapter.targets: the model has no module `{target}`; it has {', '.join(linear)} (or: all-linear)"
            )
