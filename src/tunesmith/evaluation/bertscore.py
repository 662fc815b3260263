"""BERTScore: how close two texts are in meaning, by the contextual embeddings of any encoder (name or folder).

Computed by bert-score, the authors' own package (torchmetrics 1.9 pairs replies with the wrong references where their
lengths differ). The encoder is the person's choice, since every one gives other numbers: a score is comparable only
with scores of the same encoder, which the signature names.
"""

from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.errors import MissingDependencyError, ModelError
from tunesmith.evaluation.statistics import Values
from tunesmith.models.quiet import quiet

LONGEST = 512
"""Tokens of a text that are compared; most encoders read no more."""


class BertScore:
    """The metric with `encoder` loaded. Raises ModelError, or MissingDependencyError without the extra `metrics`."""

    def __init__(self, encoder: str) -> None:
        try:
            from bert_score.utils import bert_cos_score_idf
        except ImportError as error:
            raise MissingDependencyError("--bertscore needs bert-score: pip install 'tunesmith[metrics]'") from error
        from transformers import AutoModel, AutoTokenizer

        self._score: Any = bert_cos_score_idf
        try:
            with quiet():
                # Any: transformers' types do not say what the automatic classes give.
                self._model: Any = AutoModel.from_pretrained(encoder, use_safetensors=True, trust_remote_code=False)
                self._tokenizer: Any = AutoTokenizer.from_pretrained(encoder, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            cause = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ModelError(f"--bertscore {encoder}: cannot load this encoder: {cause}") from error
        # A tokenizer that names no limit names a number too large for the tokenizers library.
        limit = int(getattr(self._model.config, "max_position_embeddings", LONGEST))
        self._tokenizer.model_max_length = min(self._tokenizer.model_max_length, limit, LONGEST)
        layer = self._model.config.num_hidden_layers
        self.signature = (
            f"bert-score {version('bert-score')}, {Path(encoder).name}, layer {layer}, F1, no idf, not rescaled"
        )

    def __call__(self, replies: Sequence[str], references: Sequence[str]) -> Values:
        """F1 of every reply against its reference, cosine similarities from -1 to 1; (rows,).

        Zhang et al. (2020), https://arxiv.org/abs/1904.09675. An empty reply is worth 0.
        """
        said = [index for index, reply in enumerate(replies) if reply.strip()]
        scores = np.zeros(len(replies))
        if not said:
            return scores
        same_weight: defaultdict[int, float] = defaultdict(lambda: 1.0)
        for special in (self._tokenizer.sep_token_id, self._tokenizer.cls_token_id):
            same_weight[special] = 0.0
        wanted, given = ([texts[index] for index in said] for texts in (references, replies))
        with quiet():
            result = self._score(self._model, wanted, given, self._tokenizer, same_weight, device=self._model.device)
        scores[said] = result[:, 2].double().numpy()  # (texts, 3): precision, recall, F1
        return scores
