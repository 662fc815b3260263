"""A language model as judge: which of two replies is better, asked of any OpenAI-compatible endpoint.

Judges prefer what stands first, so every pair is judged in both orders and counts only where both agree; where they do
not it is a tie. Method and bias: Zheng et al. (2023), https://arxiv.org/abs/2306.05685. Costs two calls a row.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from tunesmith.errors import MissingDependencyError, ModelError
from tunesmith.evaluation.statistics import Values
from tunesmith.settings import load_settings

PARALLEL_CALLS = 8
RETRIES = 4
TIMEOUT_SECONDS = 120.0

Choice: TypeAlias = Literal["first", "second", "tie"]

INSTRUCTION = (
    "You compare two replies to the same request. Judge how correct, complete and fitting each is, against the "
    "reference where one is given. Ignore the order they stand in and how long they are. Explain in one or two "
    "sentences, then end with a line that is exactly `Verdict: A`, `Verdict: B` or `Verdict: tie`."
)

VERDICT = re.compile(r"verdict\W*(A|B|tie)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Duel:
    """What the judge thinks of our replies against theirs, per row: 1 better, 0 worse, ½ a tie; (rows,).

    `consistent` is the share of rows on which both orders gave the same answer.
    """

    wins: Values
    consistent: float


class Judge:
    """The judge `model` at `url`, an OpenAI-compatible base URL such as http://localhost:8000/v1.

    Raises MissingDependencyError without the extra `metrics`.
    """

    def __init__(self, url: str, model: str) -> None:
        try:
            import openai
        except ImportError as error:
            raise MissingDependencyError("--judge needs openai: pip install 'tunesmith[metrics]'") from error
        self._errors = openai.OpenAIError
        self._client = openai.OpenAI(
            base_url=url, api_key=load_settings().api_key or "none", max_retries=RETRIES, timeout=TIMEOUT_SECONDS
        )
        self._url = url
        self.model = model

    def duel(
        self, prompts: Sequence[str], references: Sequence[str], ours: Sequence[str], theirs: Sequence[str]
    ) -> Duel:
        """Judge our reply to each prompt against theirs, in both orders. Raises ModelError when a call fails."""
        rows = range(len(prompts))
        forward = [_question(prompts[row], references[row], ours[row], theirs[row]) for row in rows]
        backward = [_question(prompts[row], references[row], theirs[row], ours[row]) for row in rows]
        with ThreadPoolExecutor(PARALLEL_CALLS) as pool:
            choices = list(pool.map(self._ask, forward + backward))
        first = [_WORTH[choice] for choice in choices[: len(prompts)]]
        second = [1.0 - _WORTH[choice] for choice in choices[len(prompts) :]]
        agree = np.array(first) == np.array(second)
        return Duel(np.where(agree, first, 0.5), float(agree.mean()))

    def _ask(self, question: str) -> Choice:
        messages: Any = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": question}]
        try:
            reply = self._client.chat.completions.create(model=self.model, messages=messages, temperature=0)
        except self._errors as error:
            cause = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
            raise ModelError(
                f"--judge {self._url}: {cause}; check the URL, --judge-model and OPENAI_API_KEY"
            ) from error
        return read_choice(reply.choices[0].message.content or "")


def read_choice(text: str) -> Choice:
    """The judge's answer: its last verdict line; a reply without one is a tie."""
    found = VERDICT.findall(text)
    last = found[-1].casefold() if found else "tie"
    return "first" if last == "a" else "second" if last == "b" else "tie"


_WORTH: dict[Choice, float] = {"first": 1.0, "tie": 0.5, "second": 0.0}


def _question(prompt: str, reference: str, first: str, second: str) -> str:
    parts = [("Request", prompt), ("Reference", reference), ("Reply A", first), ("Reply B", second)]
    return "\n\n".join(f"### {name}\n{text or '(nothing)'}" for name, text in parts)
