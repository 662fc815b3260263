"""The metrics that are asked for, because they need something: an encoder, a judge, leave to run code, or a function.

All of them are loaded before any model is: a wrong name costs a second, not an evaluation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from tunesmith.dataset.conversation import Conversation
from tunesmith.errors import SpecError
from tunesmith.evaluation.bertscore import BertScore
from tunesmith.evaluation.code_tests import pass_at_k, row_tests, solved
from tunesmith.evaluation.comparison import Replies, Systems, compare_means, mean_comparison, share_comparison
from tunesmith.evaluation.harness import Harness
from tunesmith.evaluation.judge import Duel, Judge
from tunesmith.evaluation.result import MetricComparison
from tunesmith.evaluation.statistics import Values
from tunesmith.evaluation.user_metric import load_metric

KS = (1, 5, 10, 100)
"""The k of pass@k that are customary; those that the samples allow are computed."""


@dataclass(frozen=True)
class Request:
    """`metrics` are the person's own (`module:function`), `bertscore` an encoder, `judge` a base URL with its model.

    `harness` are general tasks of lm-evaluation-harness.
    """

    metrics: tuple[str, ...] = ()
    bertscore: str | None = None
    judge: str | None = None
    judge_model: str | None = None
    run_code: bool = False
    harness: tuple[str, ...] = ()


class AskedMetrics:
    """The metrics of a request, ready; `harness` are its general tasks.

    Raises SpecError, ModelError or MissingDependencyError.
    """

    def __init__(self, request: Request, samples: int = 1) -> None:
        if (request.judge is None) != (request.judge_model is None):
            raise SpecError("--judge and --judge-model go together: the base URL of an endpoint, and a model it serves")
        self._samples = samples
        self._run_code = request.run_code
        self._own = [load_metric(name) for name in request.metrics]
        self._judge = None
        if request.judge is not None and request.judge_model is not None:
            self._judge = Judge(request.judge, request.judge_model)
        self.harness = Harness(request.harness) if request.harness else None
        self._bertscore = None if request.bertscore is None else BertScore(request.bertscore)

    def of_text(self, prompts: Sequence[str], references: Sequence[str], replies: Replies) -> list[MetricComparison]:
        """BERTScore, the judge's opinion and the person's own metrics, as far as they were asked for."""
        found = []
        if self._bertscore is not None:
            scores = _each(replies, lambda said: self._bertscore(said, references))  # type: ignore[misc]
            compared = mean_comparison("BERTScore", scores)
            found.append(msgspec.structs.replace(compared, signature=self._bertscore.signature))
        if self._judge is not None:
            found.append(self._judged(self._judge, prompts, references, replies))
        return found + [
            compare_means(own.name, own.score, replies, references, better=own.better, top=None) for own in self._own
        ]

    def of_code(
        self, rows: Sequence[Conversation], replies: Replies, sampled: Systems[list[list[str]]]
    ) -> tuple[list[MetricComparison], list[str]]:
        """pass@k of the rows that carry tests; beside it what was skipped and why. Raises SandboxError."""
        tests = [row_tests(row) for row in rows]
        tested = [index for index, test in enumerate(tests) if test is not None]
        if not tested:
            return [], []
        if not self._run_code:
            return [], [f"{len(tested)} rows carry tests of code: --run-code runs the models' replies against them"]
        wanted = [test for test in tests if test is not None]
        if self._samples == 1:
            greedy = _each(replies, lambda said: solved([[said[index]] for index in tested], wanted))
            return [share_comparison("pass@1", greedy)], []
        passed = Systems(
            solved([sampled.base[index] for index in tested], wanted),
            solved([sampled.tuned[index] for index in tested], wanted),
            None if sampled.prompted is None else solved([sampled.prompted[index] for index in tested], wanted),
        )
        ks = sorted({k for k in KS if k < self._samples} | {self._samples})
        return [self._pass_at(k, passed) for k in ks], []

    def _pass_at(self, k: int, passed: Systems[Values]) -> MetricComparison:
        prompted = None if passed.prompted is None else pass_at_k(passed.prompted, self._samples, k)
        base, tuned = (pass_at_k(each, self._samples, k) for each in (passed.base, passed.tuned))
        compared = mean_comparison(f"pass@{k}", Systems(base, tuned, prompted))
        return msgspec.structs.replace(
            compared, signature=f"{self._samples} samples a row, temperature 0.8, top-p 0.95"
        )

    def _judged(
        self, judge: Judge, prompts: Sequence[str], references: Sequence[str], replies: Replies
    ) -> MetricComparison:
        """How often the judge prefers each: tuned against the base, and against the prompted base."""
        over_base = judge.duel(prompts, references, replies.tuned, replies.base)
        compared = _preference(over_base)
        consistent = over_base.consistent
        if replies.prompted is not None:
            over_prompted = judge.duel(prompts, references, replies.tuned, replies.prompted)
            other = _preference(over_prompted)
            compared = msgspec.structs.replace(
                compared, prompted=other.base, over_prompted=other.difference, p_over_prompted=other.p
            )
            consistent = float(np.mean([consistent, over_prompted.consistent]))
        signature = f"{judge.model}, both orders, the same answer in both on {consistent:.0%} of the rows"
        return msgspec.structs.replace(compared, signature=signature)


def _preference(duel: Duel) -> MetricComparison:
    """The share of rows on which tuned is preferred beside that on which its rival is, a tie being half of each."""
    return mean_comparison("judge's preference", Systems(1.0 - duel.wins, duel.wins))


def _each(replies: Replies, score: Callable[[Sequence[str]], Values]) -> Systems[Values]:
    prompted = None if replies.prompted is None else score(replies.prompted)
    return Systems(score(replies.base), score(replies.tuned), prompted)
