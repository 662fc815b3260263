"""What a model is made of, from its config alone: no weights are read and nothing heavy is imported.

The families people fine-tune are counted by formula in microseconds; any other architecture is built without
weights on torch's meta device, which costs the import of torch and a few seconds and is exact as well.
Hub ids of common models are answered from `models.toml`, so planning needs no network for them.
"""

import difflib
import json
import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from msgspec import Struct

from tunesmith.errors import ModelError
from tunesmith.models.load import resolve_model

HUB_SECONDS = 5
"""How long to wait for the hub's answer."""

_VARIANTS = ("-2507", "-thinking", "-instruct", "-base", "-chat", "-it", "-pt", "-hf")


class ModelShape(Struct, frozen=True):
    """The sizes that memory and compute follow from.

    `active_parameters` are those one token passes through (fewer than `parameters` in a mixture of experts);
    `ffn_width` counts the experts a token uses. The `linear_*` totals are over the linear layers that
    `targets: all-linear` adapts (all but the output head): how many, their inputs, outputs and weights.
    `norm_width` counts the numbers that one layer's norms read for a token; `fused`: q, k, v are one matrix;
    `tied`: the head is the embedding; `eager`: attention weights are kept as matrices, no fused kernel has its form.
    """

    name: str
    family: str
    parameters: int
    active_parameters: int
    layers: int
    hidden: int
    heads: int
    query_width: int
    kv_width: int
    ffn_width: int
    vocabulary: int
    context: int | None
    linear_layers: int
    linear_inputs: int
    linear_outputs: int
    linear_weights: int
    largest_matrix: int
    norm_width: int
    fused: bool
    tied: bool
    eager: bool

    def lora_parameters(self, rank: int) -> int:
        """Parameters of LoRA on every linear layer: A is (rank, inputs), B is (outputs, rank)."""
        return rank * (self.linear_inputs + self.linear_outputs)


class Family(Struct, frozen=True):
    """How an architecture differs from Llama's. None: the config's own `attention_bias` says."""

    qkv_bias: bool | None = None
    output_bias: bool | None = None
    block_norms: int = 2
    query_key_norm: str = ""
    """`head`: one norm of head_dim for all heads; `full`: one over all of a projection."""
    fused: bool = False
    """q, k, v are one matrix, and gate and up another."""
    tied: bool = False
    """Whether the head shares the embedding where the config does not say."""
    eager: bool = False
    """Attention scores are capped, which transformers does outside of fused attention."""


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(qkv_bias=False, output_bias=False),
    "mixtral": Family(qkv_bias=False, output_bias=False),
    "qwen2": Family(qkv_bias=True, output_bias=False),
    "qwen3": Family(query_key_norm="head"),
    "qwen3_moe": Family(query_key_norm="head"),
    "gemma": Family(tied=True),
    "gemma2": Family(block_norms=4, tied=True, eager=True),
    "gemma3_text": Family(block_norms=4, query_key_norm="head", tied=True),
    "phi3": Family(qkv_bias=False, output_bias=False, fused=True),
    "smollm3": Family(tied=True),
    "olmo2": Family(query_key_norm="full"),
}
"""Architectures counted by formula, read off their implementations in transformers 5."""


def load_shape(ref: str) -> ModelShape:
    """The shape of `embedded`, a model folder or a hub id.

    Raises ModelError when the model is unknown or its config cannot be read.
    """
    return shape_of(read_config(ref), ref)


def read_config(ref: str) -> dict[str, Any]:
    """The model's config.json: of a folder, from the built-in table, from the hub's cache, or from the hub."""
    known = known_models().get(bare_name(ref))
    if known is not None and not Path(ref).expanduser().is_dir():
        return known
    folder = Path(resolve_model(ref))
    text = (folder / "config.json").read_bytes() if folder.is_dir() else _hub_config(ref)
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ModelError(f"model {ref}: its config.json is not JSON: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"model {ref}: its config.json has no `model_type`; give a model in Hugging Face's layout")
    return config


def shape_of(config: dict[str, Any], name: str) -> ModelShape:
    """The shape that a config.json describes; see `load_shape`."""
    family = FAMILIES.get(config["model_type"])
    mixed = config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1
    if family is None or mixed:
        from tunesmith.planning.meta_shape import shape_by_building

        return shape_by_building(config, name)
    try:
        return _count(family, config, name)
    except KeyError as error:
        raise ModelError(f"model {name}: its config.json lacks {error}; give the config that came with it") from error


@cache
def known_models() -> dict[str, dict[str, Any]]:
    """Configs of common hub models by bare name (see `bare_name`)."""
    table = tomllib.loads(files("tunesmith.planning").joinpath("models.toml").read_text(encoding="utf-8"))
    return {bare_name(name): table["defaults"][entry["model_type"]] | entry for name, entry in table["models"].items()}


def bare_name(ref: str) -> str:
    """A hub id in lower case without its `-Instruct`, `-it` or the like: variants of a model have one shape."""
    name = ref.lower()
    for variant in _VARIANTS:
        name = name.removesuffix(variant)
    return name


def _count(family: Family, config: dict[str, Any], name: str) -> ModelShape:
    hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    query = heads * head
    kv = (config.get("num_key_value_heads") or heads) * head
    experts = config.get("num_local_experts") or config.get("num_experts") or 0
    ffn = config.get("moe_intermediate_size") or config["intermediate_size"] if experts else config["intermediate_size"]
    vocabulary = config["vocab_size"]

    attention = [(hidden, query + 2 * kv)] if family.fused else [(hidden, query), (hidden, kv), (hidden, kv)]
    attention.append((query, hidden))
    mlp = [(hidden, 2 * ffn)] if family.fused else [(hidden, ffn), (hidden, ffn)]
    mlp.append((ffn, hidden))
    linear = attention if experts else attention + mlp  # experts are stacked parameters, not linear layers

    attention_bias = bool(config.get("attention_bias"))
    qkv_bias = attention_bias if family.qkv_bias is None else family.qkv_bias
    output_bias = attention_bias if family.output_bias is None else family.output_bias
    biases = (query + 2 * kv) * qkv_bias + hidden * output_bias
    biases += (2 * ffn + hidden) * bool(config.get("mlp_bias"))
    norms = family.block_norms * hidden + {"": 0, "head": 2 * head, "full": query + kv}[family.query_key_norm]

    matrices = _weights(attention) + _weights(mlp) * max(1, experts) + experts * hidden
    tied = config.get("tie_word_embeddings", family.tied)
    outside = vocabulary * hidden * (1 if tied else 2) + hidden
    unused_experts = experts - config["num_experts_per_tok"] if experts else 0
    parameters = layers * (matrices + biases + norms) + outside
    return ModelShape(
        name=name,
        family=config["model_type"],
        parameters=parameters,
        active_parameters=parameters - layers * unused_experts * _weights(mlp),
        layers=layers,
        hidden=hidden,
        heads=heads,
        query_width=query,
        kv_width=kv,
        ffn_width=ffn * (config["num_experts_per_tok"] if experts else 1),
        vocabulary=vocabulary,
        context=config.get("max_position_embeddings"),
        linear_layers=layers * len(linear),
        linear_inputs=layers * sum(inputs for inputs, _ in linear),
        linear_outputs=layers * sum(outputs for _, outputs in linear),
        linear_weights=layers * _weights(linear),
        largest_matrix=max(inputs * outputs for inputs, outputs in attention + mlp),
        norm_width=family.block_norms * hidden + (query + kv if family.query_key_norm else 0),
        fused=family.fused,
        tied=tied,
        eager=family.eager,
    )


def _weights(matrices: list[tuple[int, int]]) -> int:
    return sum(inputs * outputs for inputs, outputs in matrices)


def _hub_config(ref: str) -> bytes:
    from huggingface_hub import get_session, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils._headers import build_hf_headers

    cached = try_to_load_from_cache(ref, "config.json")
    if isinstance(cached, str):
        return Path(cached).read_bytes()
    # One plain request: the hub's own download retries for half a minute before it says that there is no network.
    try:
        answer = get_session().get(
            hf_hub_url(ref, "config.json"), headers=build_hf_headers(), timeout=HUB_SECONDS, follow_redirects=True
        )
        answer.raise_for_status()
    except Exception as error:  # the HTTP library's errors share no base with the hub's
        close = difflib.get_close_matches(bare_name(ref), known_models(), n=1, cutoff=0.8)
        hint = f" (did you mean `{close[0]}`?)" if close else ""
        raise ModelError(
            f"model {ref}: not in the built-in table{hint} or the hub's local cache, and the hub did not give its "
            "config; check the name and the network, or give a model folder"
        ) from error
    return answer.content
