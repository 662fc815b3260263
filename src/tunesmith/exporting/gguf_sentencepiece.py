"""SentencePiece's BPE in a GGUF file (Llama 2, Mistral 7B, Gemma), from the `tokenizer.json` that it lives in today.

llama.cpp merges the pair whose result has the highest score; a `tokenizer.json` has no scores but merges in their
order, which are the scores in another form: the earlier, the higher. That llama.cpp's algorithm then gives the
tokenizer's own tokens is not taken on trust: it is run here on a probe and on rows of the run, and must agree.
"""

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "\u2581"
"""What SentencePiece writes for a space."""

UNMERGED = -1e6
"""Score of a token that no merge makes: no merge of a vocabulary comes later."""


def is_sentencepiece(source: dict[str, Any]) -> bool:
    """Whether the `tokenizer.json` is SentencePiece's BPE: bytes are its fallback for what it does not know."""
    return source["model"].get("type") == "BPE" and bool(source["model"].get("byte_fallback"))


def adds_space_prefix(tokenizer: "Tokenizer") -> bool:
    """Whether a text's first word gets a space before it."""
    tokens = tokenizer.encode("a", add_special_tokens=False).tokens
    return bool(tokens) and tokens[0].startswith(SPACE)


def merge_scores(source: dict[str, Any]) -> dict[str, float]:
    """Every token's score: minus the place of the first merge that makes it."""
    scores = dict.fromkeys(source["model"]["vocab"], UNMERGED)
    for rank, merge in enumerate(source["model"]["merges"]):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        if scores.get(left + right) == UNMERGED:
            scores[left + right] = -float(rank)
    return scores


def must_agree(tokenizer: "Tokenizer", source: dict[str, Any], texts: Sequence[str]) -> None:
    """Raise ModelError unless llama.cpp's algorithm gives `tokenizer`'s tokens for every text, and after a turn."""
    scores, prefix = merge_scores(source), SPACE if adds_space_prefix(tokenizer) else ""
    vocabulary = source["model"]["vocab"]
    special = next((token["content"] for token in source.get("added_tokens", []) if token["special"]), None)
    for text in texts:
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        if encode(prefix + text.replace(" ", SPACE), scores, vocabulary) != expected:
            raise _disagrees(f"the text {text[:40]!r}")
    if special is not None:
        after = tokenizer.encode(f"{special}a b", add_special_tokens=False).ids[1:]
        if encode(f"{prefix}a{SPACE}b", scores, vocabulary) != after:
            raise _disagrees("text after a special token")


def encode(text: str, scores: dict[str, float], vocabulary: dict[str, int]) -> list[int]:
    """The token ids that llama.cpp gives `text` (spaces written as `SPACE`).

    Its `llm_tokenizer_spm_session`: join the neighbours with the best score, the leftmost first, until none can be.
    """
    pieces: list[str] = list(text)
    following = list(range(1, len(pieces) + 1))
    before = list(range(-1, len(pieces) - 1))
    queue: list[tuple[float, int, int, str]] = []

    def consider(left: int, right: int) -> None:
        if left >= 0 and right < len(pieces):
            joined = pieces[left] + pieces[right]
            if joined in scores:
                heapq.heappush(queue, (-scores[joined], left, right, joined))

    for left in range(len(pieces) - 1):
        consider(left, left + 1)
    while queue:
        _, left, right, joined = heapq.heappop(queue)
        if not pieces[left] or not pieces[right] or pieces[left] + pieces[right] != joined:
            continue  # one of them was joined to something else meanwhile
        pieces[left], pieces[right] = joined, ""
        following[left] = following[right]
        if following[right] < len(pieces):
            before[following[right]] = left
        consider(before[left], left)
        consider(left, following[left])
    ids: list[int] = []
    for piece in filter(None, pieces):
        known = vocabulary.get(piece)
        ids += [known] if known is not None else [vocabulary.get(f"<0x{byte:02X}>", -1) for byte in piece.encode()]
    return ids


def _disagrees(where: str) -> ModelError:
    return ModelError(
        f"cannot be written as GGUF exactly: llama.cpp's SentencePiece splits {where} differently from this tokenizer; "
        "export it with --to merged"
    )
