"""Which models have an exact twin in llama.cpp, and how their parameters and tensors are written for it.

GGUF names an architecture and leaves the arithmetic to llama.cpp, so a model may be written only if llama.cpp computes
the same thing. What it would compute differently (other activations, unknown rope scalings) is refused with the reason
instead of being written almost right. Follows llama.cpp's conversion/llama.py, qwen.py and gemma.py.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.errors import ModelError

if TYPE_CHECKING:
    import torch
    from gguf import GGUFWriter

Config = dict[str, Any]
"""A model's `config.json`."""


@dataclass(frozen=True)
class Architecture:
    """llama.cpp's name for it, and where its arithmetic is written differently from Hugging Face's.

    `permutes_heads`: its rope pairs neighbours where Hugging Face's pairs the two halves of a head. `shifts_norms`: it
    multiplies by a norm's weight where Hugging Face multiplies by 1 + weight. `full_every`: each layer of that number
    attends to everything, the others to a window; 0 where it knows no windows.
    """

    name: str
    permutes_heads: bool = False
    shifts_norms: bool = False
    full_every: int = 0
    activation: str = "silu"


_GELU = "gelu_pytorch_tanh"

ARCHITECTURES = {
    "llama": Architecture("llama", permutes_heads=True),
    "mistral": Architecture("llama", permutes_heads=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma": Architecture("gemma", shifts_norms=True, activation=_GELU),
    "gemma2": Architecture("gemma2", shifts_norms=True, full_every=2, activation=_GELU),
    "gemma3_text": Architecture("gemma3", shifts_norms=True, full_every=6, activation=_GELU),
}
"""By `model_type`; each is computed by llama.cpp as by transformers."""


def find_architecture(config: Config) -> Architecture:
    """The architecture of the model with this config. Raises ModelError that says why it has no exact one."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise ModelError(
            f"model_type {kind}: not written as GGUF, which knows an exact twin only for {', '.join(ARCHITECTURES)}; "
            "export it with --to merged"
        )
    architecture = ARCHITECTURES[kind]
    activation = config.get("hidden_activation") or config.get("hidden_act") or architecture.activation
    if activation != architecture.activation:
        raise _unlike(f"hidden_act {activation}, where llama.cpp computes {architecture.activation}")
    _check_layers(config, architecture)
    rope = _rope(config)
    scalings = ("default", "linear", "llama3") if architecture.permutes_heads else ("default", "linear")
    if rope["rope_type"] not in scalings:
        raise _unlike(f"rope_type {rope['rope_type']}, of which no exact form is known (only {', '.join(scalings)})")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise _unlike("rotary positions on a part of each head only")
    if config.get("query_pre_attn_scalar", _head_size(config)) != _head_size(config):
        raise _unlike("queries scaled by something else than the size of a head")
    return architecture


def _check_layers(config: Config, architecture: Architecture) -> None:
    kinds: list[str] = config.get("layer_types") or []
    unknown = set(kinds) - {"full_attention", "sliding_attention"}
    if unknown:
        raise _unlike(f"layers of the type {sorted(unknown)[0]}")
    every = architecture.full_every
    if every and any((kind == "full_attention") != ((layer + 1) % every == 0) for layer, kind in enumerate(kinds)):
        raise _unlike(f"another pattern of layers than full attention in each {every}th")
    local = (config.get("rope_parameters") or {}).get("sliding_attention")
    if local is not None and (local.get("rope_theta"), local.get("rope_type", "default")) != (10000.0, "default"):
        raise _unlike("rotary positions in its windows that llama.cpp does not have")


def write_parameters(writer: "GGUFWriter", config: Config) -> None:
    """Write what llama.cpp needs to know of the shape: lengths in numbers of values, context in tokens."""
    import gguf

    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(_context(config))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(_key_value_heads(config))
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if find_architecture(config).full_every:
        writer.add_sliding_window(config["sliding_window"])
    if config.get("attn_logit_softcapping"):
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    rope = _rope(config)
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def convert(name: str, weights: "torch.Tensor", config: Config, architecture: Architecture) -> "torch.Tensor":
    """The tensor called `name` in safetensors as llama.cpp wants it: same shape, q and k in its rope's order."""
    if architecture.shifts_norms and name.endswith("norm.weight"):
        return weights.float() + 1
    if not architecture.permutes_heads:
        return weights
    module = name.rpartition(".")[0]
    if module.endswith("q_proj"):
        return _pair_neighbours(weights, config["num_attention_heads"])
    if module.endswith("k_proj"):
        return _pair_neighbours(weights, _key_value_heads(config))
    return weights


def rope_factors(config: Config) -> "torch.Tensor | None":
    """What llama.cpp divides each rotary frequency by, (head size / 2,) fp32; None where rope is not Llama 3's.

    Llama 3.1's scaling: long wavelengths by the factor, short ones not at all, those between by interpolation
    (transformers' `_compute_llama3_parameters`).
    """
    import torch

    rope = _rope(config)
    if rope["rope_type"] != "llama3":
        return None
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    original = rope["original_max_position_embeddings"]
    size = _head_size(config)
    wavelengths = [2 * math.pi * rope["rope_theta"] ** (pair / size) for pair in range(0, size, 2)]
    factors = []
    for wavelength in wavelengths:
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(float(factor))
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(factors, dtype=torch.float32)


def _pair_neighbours(weights: "torch.Tensor", heads: int) -> "torch.Tensor":
    """Interleave the two halves of each head's rows; (heads * head size, …) in and out."""
    rows = weights.shape[0]
    halves = weights.reshape(heads, 2, rows // heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def _rope(config: Config) -> Config:
    """Rope's parameters, where transformers 5 keeps them or where older versions did."""
    given: Config = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope: Config = given.get("full_attention", given)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    return {"rope_theta": config.get("rope_theta", 10000.0), **rope, "rope_type": kind}


def _context(config: Config) -> int:
    """Up to a window's length full attention computes the same: where llama.cpp knows no windows, no more is told."""
    knows = ARCHITECTURES[config["model_type"]].full_every
    window = config.get("sliding_window") if config.get("use_sliding_window", True) and not knows else None
    positions: int = config["max_position_embeddings"]
    return min(positions, window or positions)


def _head_size(config: Config) -> int:
    size: int = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return size


def _key_value_heads(config: Config) -> int:
    heads: int = config.get("num_key_value_heads") or config["num_attention_heads"]
    return heads


def _unlike(what: str) -> ModelError:
    return ModelError(f"cannot be written as GGUF exactly: the model has {what}; export it with --to merged")
