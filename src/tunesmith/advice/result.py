"""What an advice is: plain values that `--json` prints whole and the terminal shows in part."""

from typing import Literal, TypeAlias

from msgspec import Struct

from tunesmith.advice.knowledge import Diagnosis
from tunesmith.dataset.prompting import Recipe
from tunesmith.evaluation.result import Estimate

Approach: TypeAlias = Literal["prompt", "instruction", "few-shot", "retrieval"]

Recommendation: TypeAlias = Literal[
    "stop at prompting",
    "few-shot examples",
    "retrieval (RAG)",
    "fine-tune",
    "fine-tune a smaller model",
    "continued pretraining",
    "collect more data first",
    "revisit prompt engineering",
]


class Baseline(Struct, frozen=True):
    """One way of asking the base model, measured on the held-out rows.

    `examples` are shown or passages retrieved; `prompt_tokens` and `reply_tokens` are means, `latency_seconds` the
    median time of a call on its own, `usd_per_thousand_calls` by the price table, None where no price is known.
    """

    name: str
    approach: Approach
    examples: int
    score: Estimate
    rows: int
    prompt_tokens: float
    reply_tokens: float
    latency_seconds: float | None
    usd_per_thousand_calls: float | None


class Needs(Struct, frozen=True):
    """What cannot be measured, as the person answered; None where nobody did.

    `fresh_data`: the answers change after training. `latency_budget`: milliseconds a call may take.
    """

    fresh_data: bool | None = None
    latency_budget: float | None = None
    monthly_calls: int | None = None


class Step(Struct, frozen=True):
    """A question of the decision tree, how it was answered, and the numbers behind that."""

    question: str
    answer: Literal["yes", "no"]
    evidence: str


class Alternative(Struct, frozen=True):
    """A row of the table of approaches: the field's words, and what was measured or planned here.

    `score` and `usd_per_thousand_calls` are of the best baseline of the approach; `upfront_usd` is for training and
    the people's time that it takes.
    """

    approach: str
    best_when: str
    cost: str
    effort: str
    latency_impact: str
    score: Estimate | None = None
    latency_seconds: float | None = None
    usd_per_thousand_calls: float | None = None
    upfront_usd: float | None = None


class Training(Struct, frozen=True):
    """What fine-tuning would be: `model` and `method`, its parameters, hours and dollars on `gpu`; None: not known."""

    model: str
    parameters: int | None
    method: str
    gpu: str | None
    hours: float | None
    usd: float | None
    smaller: bool


class Advice(Struct, frozen=True):
    """Everything `tunesmith advise` says; `summary` is the sentence a person wants first.

    `best` names the baseline that scored best among the prompts and examples, and `recipe` is how to ask so again,
    which `evaluate` does; `instruction` is the text that was measured.
    """

    recommendation: Recommendation
    summary: str
    steps: tuple[Step, ...]
    would_change: tuple[str, ...]
    pitfall: str
    task: str
    metric: str
    target: float
    rows: int
    held_out: int
    model: str
    best: str | None
    recipe: Recipe | None
    instruction: str | None
    baselines: tuple[Baseline, ...]
    diagnosis: Diagnosis | None
    bits_per_byte: float | None
    pair_bits_per_byte: float | None
    training: Training | None
    alternatives: tuple[Alternative, ...]
    needs: Needs
    notes: tuple[str, ...]
    seconds: float
