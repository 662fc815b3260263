from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tunesmith.assets import embedded_model
from tunesmith.dataset.conversation import Conversation, Message, Source
from tunesmith.errors import ModelError
from tunesmith.quality import semantic
from tunesmith.quality.check import Profile, Task
from tunesmith.quality.rows import RowWriter
from tunesmith.quality.semantic import SemanticDuplicates, Vectors, load_encoder

MEANINGS = {"parcel": "parcel", "package": "parcel", "where": "where", "late": "late", "delayed": "late"}


def by_known_words(texts: Sequence[str]) -> Vectors:
    """An encoder that knows a few synonyms: one dimension per meaning, one for all other words."""
    axes = sorted(set(MEANINGS.values()))
    vectors = np.zeros((len(texts), len(axes) + 1), np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().strip(".?!").split():
            vectors[row, axes.index(MEANINGS[word]) if word in MEANINGS else -1] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def profile(*rows: tuple[str, str]) -> Profile:
    writer = RowWriter()
    for line, (question, answer) in enumerate(rows, 1):
        messages = (Message("user", question), Message("assistant", answer))
        writer.extend([Conversation(messages, source=Source("rows.jsonl", line, "openai"))])
    return Profile(("rows.jsonl",), writer.rows(), Task("domain", ""))


@pytest.fixture
def duplicates(monkeypatch: pytest.MonkeyPatch) -> SemanticDuplicates:
    monkeypatch.setattr(semantic, "load_encoder", lambda ref: by_known_words)
    return SemanticDuplicates("synonyms")


def test_rows_that_say_the_same_in_other_words_are_found(duplicates: SemanticDuplicates) -> None:
    rows = profile(
        ("Where parcel?", "It is late now."),
        ("Open when?", "At nine I think."),
        ("Package where?", "Now it is delayed."),
    )
    [finding] = duplicates(rows)
    assert (finding.status, finding.count, finding.rows[0].where) == ("warn", 1, "rows.jsonl:3")
    assert "rows.jsonl:1" in finding.rows[0].note


def test_the_same_question_with_another_answer_is_no_duplicate(duplicates: SemanticDuplicates) -> None:
    [finding] = duplicates(
        profile(("Where parcel?", "It is late now."), ("Where package?", "parcel parcel parcel there"))
    )
    assert (finding.status, finding.count) == ("pass", 0)


def test_two_labels_are_never_the_same_meaning(duplicates: SemanticDuplicates) -> None:
    [finding] = duplicates(profile(("Where parcel?", "billing"), ("Where package?", "shipping")))
    assert finding.count == 0


def test_the_encoder_is_the_mean_of_the_models_last_states_without_padding() -> None:
    texts = ["Hello there.", "A much longer text about the parcel that did not come."]
    vectors = load_encoder(str(embedded_model()))(texts)
    tokenizer = AutoTokenizer.from_pretrained(embedded_model())
    model = AutoModel.from_pretrained(embedded_model(), dtype=torch.float32)
    for text, vector in zip(texts, vectors, strict=True):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        mean = states.mean(dim=0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-4)


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: object) -> None:
    with pytest.raises(ModelError, match="--semantic"):
        load_encoder(str(tmp_path))
