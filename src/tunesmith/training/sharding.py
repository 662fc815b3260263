"""Fully sharded training (FSDP2): each rank holds a part of every parameter, its gradient and its moments.

A layer's parameters are gathered when it computes and given back after, so a model that is trained in full may be as
large as the memory of all GPUs together. Gradients are added up while they are scattered. Every rank has to compute as
often as the others, or they wait for it. What is saved is whole, so that one process can load it.
"""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tunesmith.spec import DpoSpec, RunSpec
from tunesmith.training import ranks


def wants_sharding(spec: RunSpec) -> bool:
    """Whether the run's model is spread over its ranks: where there are several, and all of it learns or that is asked.

    A frozen base is only gathered, for each layer and pass, which saves memory and costs time.

    Not where ranks make replies of their own, whose lengths say how often a rank computes.
    """
    kto = isinstance(spec.objective, DpoSpec) and spec.objective.loss_type == "kto"
    evenly = spec.objective.kind in ("sft", "dpo", "reward") and not kto
    wanted = spec.training.sharding == "fsdp" or (spec.training.sharding == "auto" and spec.adapter.kind == "full")
    return ranks.count() > 1 and wanted and evenly


def shard(model: nn.Module) -> None:
    """Spread `model` (transformers') over the ranks, layer by layer, in place; an adapter stays whole on each."""
    whole: Any = model
    adapter = set()
    if isinstance(model, PeftModel):
        adapter = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for module in model.modules():
        if type(module).__name__ in set(whole._no_split_modules or ()):
            fully_shard(module, ignored_params=adapter)
    fully_shard(model, ignored_params=adapter)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # the loss is already a part of the whole step's
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was called on it."""
    return isinstance(model, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each rank holds a part; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def as_part_of(parameter: Tensor, value: Tensor) -> Tensor:
    """`value`, which every rank has whole, spread as `parameter` is."""
    value = value.to(parameter.device)
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)


def whole_state(model: nn.Module) -> dict[str, Any] | None:
    """The state dict of a sharded model, whole and on the CPU of the main process; None where the model is whole."""
    if not is_sharded(model):
        return None
    with torch.no_grad():
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}  # tied ones once
    return {name: value for name, value in state.items() if name in names}
