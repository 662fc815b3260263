"""The GGUF file holds the model: read back tensor by tensor, and computed by llama.cpp where it is installed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tunesmith.assets import embedded_model
from tunesmith.errors import ModelError, SpecError
from tunesmith.exporting.gguf import convert_folder, write_gguf
from tunesmith.exporting.gguf_architecture import find_architecture
from tunesmith.exporting.gguf_vocabulary import PROBE, check_tokenizer, find_splitter
from tunesmith.run_folder import RunFolder

gguf = pytest.importorskip("gguf")

SHAPE = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 2,
}
DEEP = {**SHAPE, "num_hidden_layers": 7, "hidden_size": 32}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "llama, biases": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, attention_bias=True)),
    "llama 3.1": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE)),
    "llama, linear rope": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0})
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**{k: v for k, v in SHAPE.items() if k != "head_dim"})),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SHAPE)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, query_pre_attn_scalar=32, sliding_window=16)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**DEEP, query_pre_attn_scalar=32, sliding_window=16)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True)),
}
TOLERANCE = {"f16": 2.0**-11, "bf16": 2.0**-8, "q8_0": 1 / 127}
"""Of one weight, as a share of the largest in its row: half a spacing of fp16 and bf16, a step of Q8_0."""


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    """A function that saves a small random model of an architecture with the embedded tokenizer."""

    def make(kind: str) -> Path:
        torch.manual_seed(0)
        model = MODELS[kind]()
        for parameter in model.parameters():  # norms and biases start all alike, where mistakes hide
            if parameter.ndim == 1:
                parameter.data += 0.2 * torch.randn_like(parameter)
        path = tmp_path / "model"
        model.save_pretrained(path)
        for file in embedded_model().iterdir():
            if "token" in file.name or "template" in file.name:
                shutil.copy(file, path / file.name)
        return path

    return make


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors as fp32 and the fields of a GGUF file."""
    reader = gguf.GGUFReader(path)
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    return tensors, {name: field.contents() for name, field in reader.fields.items()}


@pytest.mark.parametrize("outtype", ["f16", "bf16", "q8_0"])
def test_every_weight_is_read_back_within_the_tolerance_of_its_type(
    folder: Callable[[str], Path], outtype: Any, tmp_path: Path
) -> None:
    source = folder("llama, biases")
    convert_folder(source, tmp_path / "out.gguf", name="x", outtype=outtype)
    tensors, _ = read(tmp_path / "out.gguf")
    weights = LlamaForCausalLM.from_pretrained(source).state_dict()
    assert len(tensors) == len(weights)
    for name, expected in (
        ("output.weight", "lm_head.weight"),
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"),
        ("blk.0.attn_v.bias", "model.layers.0.self_attn.v_proj.bias"),
        ("output_norm.weight", "model.norm.weight"),
    ):
        wanted = weights[expected].numpy()
        allowed = TOLERANCE[outtype] * np.abs(wanted).max(axis=-1, keepdims=True) + 1e-8
        assert (np.abs(tensors[name].reshape(wanted.shape) - wanted) <= allowed).all(), name
    heads = tensors["blk.0.attn_q.weight"].reshape(4, 16, 2, 64).swapaxes(1, 2).reshape(128, 64)
    wanted = weights["model.layers.0.self_attn.q_proj.weight"].numpy()
    assert np.abs(heads - wanted).max() <= TOLERANCE[outtype] * np.abs(wanted).max() * 1.01


def test_tokenizer_template_and_special_tokens_are_in_the_file(folder: Callable[[str], Path], tmp_path: Path) -> None:
    source = folder("llama, tied")
    convert_folder(source, tmp_path / "out.gguf", name="tickets", outtype="f16")
    _, fields = read(tmp_path / "out.gguf")
    tokenizer = AutoTokenizer.from_pretrained(source)
    assert fields["general.name"] == "tickets"
    assert fields["tokenizer.chat_template"] == tokenizer.chat_template
    assert fields["tokenizer.ggml.tokens"] == tokenizer.convert_ids_to_tokens(list(range(2048)))
    assert fields["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]  # three control tokens, then normal ones
    assert (fields["tokenizer.ggml.eos_token_id"], fields["tokenizer.ggml.padding_token_id"]) == (0, 2)
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["llama.rope.dimension_count"] == 32
    assert fields["llama.context_length"] == 512


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_gives_the_logits_of_transformers(folder: Callable[[str], Path], kind: str, tmp_path: Path) -> None:
    """Reference: transformers in fp32; llama-cpp-python 0.3; tolerance 1% of the largest logit, for fp16 weights."""
    llama_cpp = pytest.importorskip("llama_cpp")
    source = folder(kind)
    convert_folder(source, tmp_path / "out.gguf", name="x", outtype="f16")
    tokenizer = AutoTokenizer.from_pretrained(source)
    turns = [{"role": "user", "content": "Order 4521  has not come; it's 12 days late. Füße, 工作 🚀!"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(text, add_special_tokens=False)
    with torch.inference_mode():
        model = type(MODELS[kind]()).from_pretrained(source, dtype=torch.float32)
        expected = model(torch.tensor([ids])).logits[0].numpy()  # (tokens, vocabulary)
    loaded = llama_cpp.Llama(str(tmp_path / "out.gguf"), n_ctx=256, n_threads=1, logits_all=True, verbose=False)
    try:
        assert loaded.tokenize(text.encode(), add_bos=False, special=True) == ids
        loaded.eval(ids)
        found = np.array(loaded.scores[: len(ids)])
    finally:
        loaded.close()
    assert np.abs(found - expected).max() <= 0.01 * np.abs(expected).max()


def test_a_run_becomes_a_file_with_its_card_and_an_existing_file_is_kept(make_run: Callable[..., RunFolder]) -> None:
    run = make_run()
    with pytest.raises(
        ModelError, match=r"neither a byte-level BPE.*--to merged"
    ):  # the fixture's tokenizer knows words only
        write_gguf(run)
    assert not list(run.root.glob("gguf/*"))
    assert not list(run.root.glob(".merge*"))
    existing = run.root / "gguf" / "run-F16.gguf"
    existing.parent.mkdir(exist_ok=True)
    existing.write_text("precious")
    with pytest.raises(SpecError, match=r"run-F16.gguf: exists"):
        write_gguf(run)
    assert existing.read_text() == "precious"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "mamba"}, "model_type mamba"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "rope_type yarn"),
        ({"model_type": "gemma2", "hidden_act": None, "query_pre_attn_scalar": 7}, "queries scaled"),
        ({"model_type": "gemma2", "hidden_act": None, "layer_types": ["full_attention"] * 2}, "another pattern"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
    ],
)
def test_what_llama_cpp_would_compute_differently_is_refused_with_the_reason(
    change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError, match=rf"{reason}.*--to merged"):
        find_architecture({"model_type": "llama", **SHAPE, **change})


def byte_level(*steps: Any, words: bool = False, ignore_merges: bool = False) -> Tokenizer:
    """A tokenizer of single bytes and a few merges that tell splitters apart."""
    vocabulary = {token: index for index, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [
        ("Ġ", "Ġ"),
        ("3", "3"),
        ("33", "3"),
        ("'", "t"),
        ("'", "T"),
        ("Ċ", "Ċ"),
        (".", "."),
        ("(", "n"),
        ("?", "Ċ"),
    ]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)]
    )
    return tokenizer


def split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def test_the_splitters_of_known_tokenizers_are_found_by_what_they_do() -> None:
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
    qwen = words + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    llama3 = qwen.replace(r"\p{N}| ", r"\p{N}{1,3}| ")
    assert find_splitter(byte_level(split(qwen))).name == "qwen2"
    assert find_splitter(byte_level(split(llama3), ignore_merges=True)).name == "llama-bpe"
    assert find_splitter(byte_level(pre_tokenizers.Digits(individual_digits=True), words=True)).name == "smollm"
    assert find_splitter(byte_level(words=True)).name == "gpt-2"


def test_a_splitter_that_llama_cpp_does_not_have_is_refused() -> None:
    with pytest.raises(ModelError, match="no splitter"):
        find_splitter(byte_level(split(r"[a-z]+|[0-9]{2}|\s")))


def test_the_embedded_tokenizer_splits_as_llama_cpp_would() -> None:
    tokenizer = Tokenizer.from_file(str(embedded_model() / "tokenizer.json"))
    assert find_splitter(tokenizer, [PROBE * 2]).name == "smollm"


def sentencepiece(tmp_path: Path, *, prefix: bool) -> Tokenizer:
    """A small SentencePiece BPE as transformers keeps it: each way to make a piece is a merge, in the pieces' order."""
    pieces = ["▁t", "he", "▁the", "in", "▁p", "ar", "cel", "ce", "▁par", "▁parcel", "er", "or", "▁▁", "33", "th", "▁o"]
    letters = sorted(set("▁abcdefghijklmnopqrstuvwxyz0123456789.,!?'\n"))
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *pieces]
    vocabulary = {name: index for index, name in enumerate(names)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [normalizers.Prepend("▁")] if prefix else []
    core.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens(["<unk>", "<s>", "</s>"])
    return core


@pytest.mark.parametrize("prefix", [True, False])
def test_llama_cpp_tokenizes_sentencepiece_as_transformers_does(tmp_path: Path, prefix: bool) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    core = sentencepiece(tmp_path, prefix=prefix)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    size = len(tokenizer)
    model = LlamaForCausalLM(LlamaConfig(**{**SHAPE, "vocab_size": size, "bos_token_id": 1, "eos_token_id": 2}))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    texts = ["the parcel  is here.\nOther in 3333 Füße 🚀", "</s>the parcel</s> the"]
    convert_folder(tmp_path / "model", tmp_path / "out.gguf", name="x", outtype="f16", texts=texts[:1])
    loaded = llama_cpp.Llama(str(tmp_path / "out.gguf"), n_ctx=64, n_threads=1, vocab_only=True, verbose=False)
    try:
        for text in texts:
            expected = tokenizer.encode(text, add_special_tokens=False)
            assert loaded.tokenize(text.encode(), add_bos=False, special=True) == expected
    finally:
        loaded.close()


def test_a_sentencepiece_that_llama_cpp_would_split_differently_is_refused(tmp_path: Path) -> None:
    core = sentencepiece(tmp_path, prefix=True)
    core.normalizer = normalizers.Sequence([normalizers.Lowercase(), core.normalizer])
    with pytest.raises(ModelError, match="splits the text"):
        check_tokenizer(core, ["THE Parcel"])
