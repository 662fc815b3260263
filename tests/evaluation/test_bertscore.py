"""BERTScore with a tiny random encoder, against the formula written out. Tolerance 1e-5: it is computed in fp32."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast

from tunesmith.errors import ModelError
from tunesmith.evaluation.bertscore import BertScore

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "a", "mat", "dog"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **shape)).save_pretrained(folder)
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing("[CLS] $0 [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    ).save_pretrained(folder)
    return folder


def by_hand(folder: Path, reply: str, reference: str) -> float:
    """Zhang et al. (2020), equations 1 to 3, on the last layer; [CLS] and [SEP] may be matched but do not count."""
    model = AutoModel.from_pretrained(folder).eval()

    def embed(text: str) -> torch.Tensor:
        ids = torch.tensor([[2, *(WORDS.index(word) for word in text.split()), 3]])
        with torch.no_grad():
            states = model(input_ids=ids).last_hidden_state[0]
        return states / states.norm(dim=-1, keepdim=True)

    similar = embed(reply) @ embed(reference).T  # (reply tokens, reference tokens)
    precision, recall = similar.max(dim=1).values[1:-1].mean(), similar.max(dim=0).values[1:-1].mean()
    return float(2 * precision * recall / (precision + recall))


def test_it_is_the_papers_f1_in_the_order_of_the_rows(encoder: Path) -> None:
    replies = ["the cat sat on a mat", "a dog", "", "the dog sat"]
    references = ["the cat", "the dog sat on the mat", "a cat", "the dog sat"]
    found = BertScore(str(encoder))(replies, references)
    expected = [by_hand(encoder, *pair) if pair[0] else 0.0 for pair in zip(replies, references, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found[3] == pytest.approx(1.0, abs=1e-5)


def test_an_encoder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing-here"):
        BertScore(str(tmp_path / "nothing-here"))
