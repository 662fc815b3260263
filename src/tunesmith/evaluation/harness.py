"""General tasks by name, from EleutherAI's lm-evaluation-harness: is the tuned model worse elsewhere?

The harness asks and scores; from here come the same models that everything else is measured on, and the pairing of the
documents. A task's first `DOCUMENTS` documents are asked, without a chat template, as published figures are.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tunesmith.errors import MissingDependencyError, SpecError
from tunesmith.evaluation.comparison import Better, Systems, mean_comparison, share_comparison
from tunesmith.evaluation.result import MetricComparison
from tunesmith.evaluation.statistics import Values
from tunesmith.models.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tunesmith.models.load import Model

DOCUMENTS = 256
"""Documents of a task that are asked; a proportion is then known within about 6 points."""

BATCH_DOCUMENTS = 8

TASK_FILES = (".yaml", ".yml")

PREFERRED = ("acc_norm", "acc", "exact_match")
"""Of a task's metrics the one that is compared: the first of these, else the task's own first."""


class Harness:
    """The tasks `names` (names of the harness's, or YAML files of one's own), with their documents loaded.

    Raises MissingDependencyError without the extra `harness`, SpecError for a task that cannot be loaded.
    """

    def __init__(self, names: Sequence[str]) -> None:
        try:
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise MissingDependencyError("--harness needs lm-eval: pip install 'tunesmith[harness]'") from error
        self._tasks: dict[str, Any] = {}  # the harness's task objects
        with _hushed():
            # Reading the index of all its tasks takes seconds, and files of one's own need none.
            self._manager = TaskManager(include_defaults=not all(Path(name).suffix in TASK_FILES for name in names))
            for name in names:
                try:
                    self._tasks |= self._manager.load([name])["tasks"]
                except Exception as error:  # whatever a task's loader and its data set's raise
                    cause = " ".join(str(error).split()) or type(error).__name__
                    raise SpecError(
                        f"--harness {name}: cannot load this task: {cause}; give a task's name (lm_eval ls tasks), "
                        "with its data within reach, or a task's YAML file"
                    ) from error

    def scores(self, model: "Model", tokenizer: "PreTrainedTokenizerBase") -> dict[str, Values]:
        """By task and metric the model's score on each document; (documents,) each."""
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        with _hushed():
            asked: Any = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH_DOCUMENTS)
            found: Any = simple_evaluate(
                asked,
                tasks=list(self._tasks.values()),
                task_manager=self._manager,
                limit=DOCUMENTS,
                bootstrap_iters=0,
                log_samples=True,
            )
        scores = {}
        for task, samples in found["samples"].items():
            first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
            numeric = [name for name in samples[0]["metrics"] if isinstance(samples[0].get(name), int | float)]
            if numeric:
                metric = next((name for name in PREFERRED if name in numeric), numeric[0])
                scores[f"{task} {metric}"] = np.array([float(sample[metric]) for sample in first])
        return scores

    def compare(self, base: dict[str, Values], tuned: dict[str, Values]) -> list[MetricComparison]:
        """Base and tuned on the same documents, task by task."""
        return [self._compared(name, Systems(base[name], tuned[name])) for name in base]

    def _compared(self, name: str, scores: Systems[Values]) -> MetricComparison:
        task, _, metric = name.partition(" ")
        better: Better = "higher" if self._tasks[task].higher_is_better().get(metric, True) else "lower"
        if np.isin([scores.base, scores.tuned], [0.0, 1.0]).all():
            compared = share_comparison(name, scores, better=better)
        else:
            compared = mean_comparison(name, scores, better=better, top=None)
        return msgspec.structs.replace(
            compared, signature=f"lm-eval {version('lm-eval')}, first {compared.rows} documents"
        )


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """The harness tells much about itself; what it finds is what counts."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet():
            yield
    finally:
        logger.setLevel(level)
