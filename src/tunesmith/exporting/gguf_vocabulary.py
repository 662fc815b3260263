"""The tokenizer inside a GGUF file: tokens, merges, special tokens, chat template, and which splitter llama.cpp uses.

llama.cpp has no general pre-tokenizer: the file names one of those built into it. The name is found the way llama.cpp's
converter does it, by what the tokenizer does to a probe text, except that here the built-in splitters themselves are
compared on the model's own vocabulary, so any tokenizer that one of them serves exactly is accepted.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import ModelError
from tunesmith.exporting import gguf_sentencepiece as spm

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from tokenizers import Tokenizer

PROBE = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \nIt's 3 33 333 3333, 33333; (3.3) 3..3 3...3 £7 tab\t4\n"
    "WE'VE said 'I'm'; THEY'll don't ------======= ''''''```````\"\"\"\"......!!!!!!?????? a_b-c/d\\e {x: [1, 2]} "
    "Füße, naïve, нещо на Български, 我想在apple工作1314151天, កាន់តែពិសេស 🚀 (normal) 😶\u200d🌫️ ✅ end  "
)
"""White space, digits, contractions, punctuation, several scripts and emoji: where splitters differ."""

_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_WORDS_AND = r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Splitter:
    """One of llama.cpp's built-in pre-tokenizers: its regular expressions, applied one after the other.

    `ignore_merges`: a piece that is a token as a whole is taken without merging.
    """

    name: str
    expressions: tuple[str, ...]
    ignore_merges: bool = False


SPLITTERS = (
    Splitter("llama-bpe", (_CONTRACTIONS + _WORDS_AND + r"\p{N}{1,3}" + _REST,), ignore_merges=True),
    Splitter("qwen2", (_CONTRACTIONS + _WORDS_AND + r"\p{N}" + _REST,)),
    Splitter("tekken", (_TEKKEN,), ignore_merges=True),
    Splitter("smollm", (r"\p{N}", _GPT2)),
    Splitter("gpt-2", (_GPT2,)),
)
"""As in llama.cpp's src/llama-vocab.cpp."""


def write_vocabulary(
    writer: "GGUFWriter", model: Path, *, vocabulary_size: int, turn_end: int | None, texts: Sequence[str]
) -> None:
    """Write the tokenizer of the model folder `model`; `texts` are rows on which the splitter must agree too.

    Raises ModelError when llama.cpp has no way to tokenize as it does.
    """
    import gguf
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    source = json.loads(tokenizer.to_str())
    check_tokenizer(tokenizer, texts)
    tokens, kinds = _tokens(source, vocabulary_size)
    if spm.is_sentencepiece(source):
        scores = spm.merge_scores(source)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores([scores.get(token, spm.UNMERGED) for token in tokens])
        writer.add_add_space_prefix(spm.adds_space_prefix(tokenizer))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(find_splitter(tokenizer, texts).name)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    special = gguf.SpecialVocab(model, load_merges=not spm.is_sentencepiece(source), n_vocab=vocabulary_size)
    special.add_special_token.setdefault("bos", False)  # some splitters switch it on in llama.cpp
    special.add_to_gguf(writer, quiet=True)
    if turn_end is not None and turn_end != special.special_token_ids.get("eos"):
        writer.add_eot_token_id(turn_end)


def check_tokenizer(tokenizer: "Tokenizer", texts: Sequence[str]) -> None:
    """Raise ModelError when llama.cpp would not give `tokenizer`'s tokens on the probe and on `texts`."""
    source = json.loads(tokenizer.to_str())
    if spm.is_sentencepiece(source):
        spm.must_agree(tokenizer, source, (PROBE, *texts))
    else:
        find_splitter(tokenizer, texts)


def find_splitter(tokenizer: "Tokenizer", texts: Sequence[str] = ()) -> Splitter:
    """The built-in splitter with which llama.cpp gives `tokenizer`'s tokens, on the probe and on `texts`.

    One that cuts the probe into the same pieces is preferred to one that gives the same tokens all the same. Raises
    ModelError when the tokenizer is no byte-level BPE, or no splitter of llama.cpp splits as it does.
    """
    _must_be_byte_level(json.loads(tokenizer.to_str()))
    agreeing = [splitter for splitter in SPLITTERS if _same_tokens(tokenizer, splitter, (PROBE, *texts))]
    if not agreeing:
        raise ModelError(
            "cannot be written as GGUF exactly: llama.cpp has no splitter for this tokenizer "
            f"(tried {', '.join(splitter.name for splitter in SPLITTERS)}); export it with --to merged"
        )
    pieces = _pieces(tokenizer, PROBE)
    return next(
        (splitter for splitter in agreeing if _pieces(_with(tokenizer, splitter), PROBE) == pieces), agreeing[0]
    )


def _same_tokens(tokenizer: "Tokenizer", splitter: Splitter, texts: Sequence[str]) -> bool:
    other = _with(tokenizer, splitter)
    return all(_encode(tokenizer, text) == _encode(other, text) for text in texts)


def _encode(tokenizer: "Tokenizer", text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _pieces(tokenizer: "Tokenizer", text: str) -> list[str]:
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def _with(tokenizer: "Tokenizer", splitter: Splitter) -> "Tokenizer":
    """A copy of `tokenizer` that splits as llama.cpp would."""
    from tokenizers import Regex, Tokenizer, pre_tokenizers

    other = Tokenizer.from_str(tokenizer.to_str())
    other.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(expression), "isolated") for expression in splitter.expressions),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    other.model.ignore_merges = splitter.ignore_merges
    return other


def _must_be_byte_level(source: dict[str, Any]) -> None:
    pre = source.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    # llama.cpp composes no characters (NFC) for Qwen either: text is taken to be composed, as nearly all text is.
    byte_level = any(step.get("type") == "ByteLevel" for step in steps)
    if (
        source["model"].get("type") != "BPE"
        or not byte_level
        or source.get("normalizer") not in (None, {"type": "NFC"})
    ):
        raise ModelError(
            "cannot be written as GGUF exactly: its tokenizer is neither a byte-level BPE (as of Llama 3 and Qwen) nor "
            "SentencePiece's (as of Llama 2 and Gemma); export it with --to merged"
        )


def _tokens(source: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Every token's text and kind, by id; ids that the tokenizer does not use are filled up as llama.cpp does."""
    from gguf import TokenType

    tokens = [f"[PAD{index}]" for index in range(size)]
    kinds = [int(TokenType.UNUSED)] * size
    unknown = source["model"].get("unk_token")
    for token, index in source["model"]["vocab"].items():
        kind = TokenType.BYTE if re.fullmatch("<0x[0-9A-F]{2}>", token) else TokenType.NORMAL
        tokens[index], kinds[index] = token, int(kind)
    for added in source.get("added_tokens", []):
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        kind = TokenType.UNKNOWN if added["content"] == unknown else kind
        tokens[added["id"]], kinds[added["id"]] = added["content"], int(kind)
    return tokens, kinds
