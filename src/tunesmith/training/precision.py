"""`precision: auto`: bf16 where the device multiplies it faster than fp32, and the model is large enough to feel it.

The answer comes from what the processor can do, not from a stopwatch: a resumed run must choose as the first one did,
and a busy machine must not change a run's numbers.
"""

from typing import Literal

import torch
from transformers import AutoConfig

from tunesmith.models.load import resolve_model

SMALLEST_BF16_WIDTH = 512
"""Hidden width below which a CPU's fp32 is at least as fast: casts and small products cost more than bf16 saves."""


def use_bf16(precision: Literal["auto", "fp32", "bf16"], model: str, device: torch.device) -> bool:
    """Whether to compute in bf16 what `precision` asks for, for `model` (as in the spec) on `device`."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda" or not multiplies_bf16_fast(device):
        return multiplies_bf16_fast(device)
    config = AutoConfig.from_pretrained(resolve_model(model), trust_remote_code=False).get_text_config()
    return int(getattr(config, "hidden_size", 0)) >= SMALLEST_BF16_WIDTH


def multiplies_bf16_fast(device: torch.device) -> bool:
    """Whether it has bf16 matrix instructions (a CPU: AVX-512 BF16 or AMX); otherwise bf16 is emulated, and slower."""
    match device.type:
        case "cuda":
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        case "cpu":
            return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def computing_dtype(tensor: torch.Tensor) -> torch.dtype:
    """What `tensor` is multiplied in: autocast's precision where that is on."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype
