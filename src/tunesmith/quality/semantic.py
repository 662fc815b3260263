"""Rows that say the same in other words: found by a sentence-embedding model, where one is given.

Inputs and outputs are embedded apart, and both must be alike: the same question with another answer is no duplicate.
Every pair is compared (exactly, in blocks of a matrix product), so time grows with the square of the rows: a minute
for 50,000 on two cores, most of it the model's. The idea and the threshold follow SemDeDup (Abbas et al. 2023,
arXiv:2303.09540).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tunesmith.dataset.neardup import DuplicatePairs, connected_components
from tunesmith.errors import ModelError
from tunesmith.models.quiet import quiet
from tunesmith.quality.check import SHOWN_ROWS, Profile, counted, quote
from tunesmith.quality.contradictions import LABEL_WORDS, answer, outputs_differ
from tunesmith.quality.questions import WORD
from tunesmith.quality.report import Finding, RowNote

if TYPE_CHECKING:
    import torch

Vectors: TypeAlias = NDArray[np.float32]

SAME_MEANING = 0.95
"""Cosine similarity of both inputs and outputs from which two rows say the same."""

WARN_SHARE = 0.05

EMBEDDED_CHARACTERS = 2_000
BATCH_TEXTS = 64
BLOCK_ROWS = 1_024


class Encoder(Protocol):
    """Turns texts into vectors of unit length."""

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """The texts' vectors, (texts, dimensions)."""
        ...


class SemanticDuplicates:
    """A `ProfileCheck` with the embedding model `ref`, a folder or a hub id. Raises ModelError when it cannot load."""

    def __init__(self, ref: str) -> None:
        self._ref = ref
        self._encode = load_encoder(ref)

    def __call__(self, profile: Profile) -> tuple[Finding, ...]:
        """One finding; `count` is the rows that say what an earlier one says, exact and near copies included."""
        rows = profile.rows
        pairs = self._pairs(profile)
        first = connected_components(len(rows), pairs)
        copies = np.flatnonzero(first != np.arange(len(rows))).tolist()
        if not copies:
            return (Finding("semantic duplicates", "pass", f"no two rows say the same in other words ({self._ref})"),)
        notes = (
            RowNote(rows.where(copy), f"means the same as {rows.where(int(first[copy]))}: {quote(rows.inputs[copy])}")
            for copy in copies[:SHOWN_ROWS]
        )
        return (
            Finding(
                "semantic duplicates",
                "warn" if len(copies) > WARN_SHARE * len(rows) else "pass",
                counted(len(copies), f"mean what an earlier row means ({self._ref})", whole=len(rows)),
                count=len(copies),
                rows=tuple(notes),
                mend="keep the best wording of each, or collect inputs of other kinds",
                facts={"share": round(len(copies) / len(rows), 4)},
            ),
        )

    def _pairs(self, profile: Profile) -> DuplicatePairs:
        """Pairs of rows of one context whose inputs and outputs mean the same."""
        rows = profile.rows
        left, right = _alike(embed(self._encode, rows.inputs), embed(self._encode, rows.outputs))
        same_context = rows.contexts[left] == rows.contexts[right]
        agreeing = np.fromiter(
            (not _other_label(answer(rows, a), answer(rows, b)) for a, b in zip(left, right, strict=True)),
            np.bool_,
            len(left),
        )
        keep = same_context & agreeing
        left, right = left[keep], right[keep]
        return DuplicatePairs(left, right, np.ones(len(left)), np.zeros(len(left), np.bool_))


def load_encoder(ref: str, flag: str = "--semantic") -> Encoder:
    """The sentence-embedding model `ref` (folder or hub id): mean pooling over its last layer, unit length.

    That is how most sentence-embedding models are meant to be used; their weights must be safetensors. Raises
    ModelError, naming `flag`.
    """
    try:
        with quiet():
            import torch
            from transformers import AutoModel, AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(ref, trust_remote_code=False)
            model: Any = AutoModel.from_pretrained(
                ref, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            ).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise ModelError(f"{flag} {ref}: cannot load this embedding model: {reason[0] if reason else error}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token

    def encode(texts: Sequence[str]) -> Vectors:
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=512, return_tensors="pt")
        with torch.inference_mode():
            states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        return _mean_pool(states, batch["attention_mask"])

    return encode


def _mean_pool(states: "torch.Tensor", mask: "torch.Tensor") -> Vectors:
    """The mean of the states (texts, tokens, dimensions) where `mask` (texts, tokens) is 1, of unit length."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    mean = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    vectors: Vectors = (mean / mean.norm(dim=1, keepdim=True).clamp(min=1e-12)).numpy()
    return vectors


def embed(encode: Encoder, texts: Sequence[str]) -> Vectors:
    """Vectors of all texts, (texts, dimensions); each distinct text once, batches of like length."""
    shortened = [text[:EMBEDDED_CHARACTERS] or " " for text in texts]
    distinct = sorted(set(shortened), key=len)
    if not distinct:
        return np.zeros((0, 1), np.float32)
    vectors = np.concatenate(
        [encode(distinct[start : start + BATCH_TEXTS]) for start in range(0, len(distinct), BATCH_TEXTS)]
    )
    place = {text: index for index, text in enumerate(distinct)}
    return vectors[[place[text] for text in shortened]]


def _alike(inputs: Vectors, outputs: Vectors) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of rows with both similarities of at least `SAME_MEANING`, `left < right`, sorted."""
    lefts, rights = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(inputs), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        alike = inputs[block] @ inputs[start:].T >= SAME_MEANING  # (block, rows from start on)
        some = np.flatnonzero(alike.sum(axis=1) > 1)
        for row in some.tolist():
            others = np.flatnonzero(alike[row, row + 1 :]) + row + 1 + start
            others = others[outputs[others] @ outputs[start + row] >= SAME_MEANING]
            lefts.append(np.full(len(others), start + row))
            rights.append(others)
    return np.concatenate(lefts), np.concatenate(rights)


def _other_label(one: str, other: str) -> bool:
    """Whether the two answers are labels or values, and different ones: embeddings of single words are all alike."""
    return min(len(WORD.findall(one)), len(WORD.findall(other))) <= LABEL_WORDS and outputs_differ(one, other)
