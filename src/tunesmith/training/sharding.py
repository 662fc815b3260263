"""Fully sharded training (FSDP2): each rank holds a part of every parameter, its gradient and its moments.

A layer's parameters are gathered when it computes and given back after, so a model that is trained in full, or the
frozen base of an adapter, may be as large as the memory of all GPUs together. It is never whole on one of them: its
files are mapped into memory, and a rank takes its part of them layer by layer. Gradients are added up while they are
scattered. Every rank has to compute as often as the others, or they wait for it. What is saved is whole, so that one
process can load it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tunesmith.spec import RunSpec
from tunesmith.training import ranks


def wants_sharding(spec: RunSpec) -> bool:
    """Whether the run's model is spread over its ranks: where there are several, and all of it learns or that is asked.

    A frozen base is only gathered, for each layer and pass, which saves memory and costs time.
    """
    asked = spec.training.sharding
    return ranks.count() > 1 and (asked == "fsdp" or (asked == "auto" and spec.adapter.kind == "full"))


def shard(model: nn.Module, device: torch.device, *, dtype: torch.dtype | None = None, bf16: bool = False) -> None:
    """Spread `model` over the ranks' devices, layer by layer (transformers say what one is), in place.

    An adapter stays whole on each rank. All else becomes `dtype`, where one is given. With `bf16`, layers are gathered,
    computed with, and given back in it: autocast's copies of them would stay until the backward pass.
    """
    whole: Any = model
    adapter = set()
    if isinstance(model, PeftModel):
        adapter = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for parameter in adapter:
        parameter.data = parameter.data.to(device)
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 and not adapter else MixedPrecisionPolicy()
    layers = [
        module
        for module in model.modules()
        if type(module).__name__ in set(getattr(whole, "_no_split_modules", None) or ())
    ]
    for module in (*layers, model):
        for parameter in module.parameters():
            if parameter not in adapter and not isinstance(parameter, DTensor):
                parameter.data = parameter.data.to(device, dtype)
        fully_shard(module, ignored_params=adapter, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # the loss is already a part of the whole step's
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was called on it, or on one of those that it is made of."""
    return next(_sharded(model), None) is not None


def give_back(model: nn.Module) -> None:
    """Make a sharded model's parameters parts again, of which a pass without a gradient leaves the outermost whole."""
    for part in _sharded(model):
        part.reshard()


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """For generation, which is many passes without a gradient: what is outside a sharded model's layers stays whole.

    The layers do, too, where every rank's memory has room for as much again beside them. Generation with an adapter
    calls the base inside it, past the outermost module, which would gather what is outside.
    """
    outermost = list(_sharded(model))
    layers = [part for part in model.modules() if isinstance(part, FSDPModule) and part not in outermost]
    kept = layers if outermost and all(ranks.gather(2 * _whole_bytes(model) <= _free_bytes(model))) else []
    for layer in kept:
        layer.set_reshard_after_forward(False, recurse=False)
    for part in (*outermost, *kept):
        part.unshard()
    yield
    for layer in kept:
        layer.set_reshard_after_forward(True, recurse=False)
    for part in (*outermost, *kept):
        part.reshard()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each rank holds a part; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def as_part_of(parameter: Tensor, value: Tensor) -> Tensor:
    """`value`, which every rank has whole, spread as `parameter` is."""
    value = value.to(parameter.device)
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)


def whole_state(model: nn.Module) -> dict[str, Any] | None:
    """The state dict of a sharded model, whole and on the CPU of the main process; None where what learns is whole."""
    if not is_sharded(model) or isinstance(model, PeftModel):
        return None
    with torch.no_grad():
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}  # tied ones once
    return {name: value for name, value in state.items() if name in names}


def _sharded(model: nn.Module) -> Iterator[FSDPModule]:
    return (part for part in (model, *model.children()) if isinstance(part, FSDPModule))


def _whole_bytes(model: nn.Module) -> int:
    """Of all that is spread, as it is gathered."""
    states = [part._get_fsdp_state() for part in model.modules() if isinstance(part, FSDPModule)]
    dtype = states[0]._mp_policy.param_dtype
    spread = [parameter for parameter in model.parameters() if isinstance(parameter, DTensor)]
    return sum(parameter.numel() * (dtype or parameter.dtype).itemsize for parameter in spread)


def _free_bytes(model: nn.Module) -> int:
    """Of this rank's GPU; none of a CPU's, whose memory is that of all ranks."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return 0
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
