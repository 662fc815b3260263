"""The field's table of approaches and its pitfalls, and what would change each recommendation."""

from msgspec import Struct

from tunesmith.advice.decision import EFFORT_USD, Evidence, points
from tunesmith.advice.result import Alternative, Baseline, Recommendation, Training

APPROACHES: tuple[Alternative, ...] = (
    Alternative("Prompt engineering", "the task is well-defined, with few formats", "very low", "low", "none"),
    Alternative(
        "Few-shot examples", "a consistent format or style is needed", "low", "low", "slightly higher (more tokens)"
    ),
    Alternative("RAG", "up-to-date or private knowledge is needed", "medium", "medium", "higher (retrieval step)"),
    Alternative(
        "Fine-tuning", "behaviour, style or domain expertise must change", "high", "high", "lower at inference"
    ),
    Alternative("Continued pretraining", "the domain or language is entirely new", "very high", "very high", "none"),
)
"""In order of effort."""


class Pitfall(Struct, frozen=True):
    """A common mistake: what goes wrong, and what to do instead."""

    name: str
    problem: str
    mend: str

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}. {self.mend}."


KNOWLEDGE = Pitfall(
    "fine-tuning for knowledge",
    "models forget facts and make them up",
    "Use RAG for knowledge, fine-tuning for behaviour",
)
TOO_FEW = Pitfall(
    "too few examples", "underfitting and poor generalization", "Start with 200 or more high-quality examples"
)
TOO_MANY_EPOCHS = Pitfall("too many epochs", "overfitting", "Watch validation loss and stop early")
INCONSISTENT = Pitfall("inconsistent data", "it confuses the model", "Make all examples agree in format and content")
IGNORED_BASE = Pitfall(
    "ignoring what the base model can do", "training for nothing", "Test the base model with a prompt first"
)
NOT_MERGED = Pitfall(
    "not merging LoRA for production", "extra work at every call", "Merge the adapter into the base weights"
)

PITFALLS: dict[Recommendation, Pitfall] = {
    "stop at prompting": IGNORED_BASE,
    "few-shot examples": IGNORED_BASE,
    "retrieval (RAG)": KNOWLEDGE,
    "fine-tune": TOO_MANY_EPOCHS,
    "fine-tune a smaller model": NOT_MERGED,
    "continued pretraining": KNOWLEDGE,
    "collect more data first": TOO_FEW,
    "revisit prompt engineering": IGNORED_BASE,
}


def pitfall(recommendation: Recommendation, evidence: Evidence) -> Pitfall:
    """The mistake that the recommendation avoids."""
    if recommendation == "collect more data first" and evidence.rows >= evidence.minimum_rows:
        return INCONSISTENT
    return PITFALLS[recommendation]


def alternatives(evidence: Evidence, training: Training | None) -> tuple[Alternative, ...]:
    """The table with what was measured of each approach and what its training would cost."""
    prompting, few_shot, rag, tuning, pretraining = APPROACHES
    return (
        _measured(prompting, evidence.best_prompt),
        _measured(few_shot, evidence.best_shots),
        _measured(rag, evidence.retrieval),
        _planned(tuning, evidence, training),
        pretraining,
    )


def would_change(recommendation: Recommendation, evidence: Evidence) -> tuple[str, ...]:
    """What, if it were otherwise, would make the advice another one."""
    best, needs, found = evidence.best, evidence.needs, []
    match recommendation:
        case "stop at prompting" | "few-shot examples":
            if best is not None and best.score.low < evidence.target:
                found.append(
                    f"The interval reaches down to {points(best.score.low)}: measure more rows (--rows) to be sure."
                )
            found.append(f"A higher bar than {points(evidence.target)} (--target).")
            if needs.latency_budget is None:
                found.append("A latency budget that the call does not keep (--latency-budget).")
            if needs.monthly_calls is None:
                found.append("A volume at which a smaller tuned model pays (--monthly-calls).")
        case "retrieval (RAG)":
            if not evidence.over_documents:
                found.append("Documents that do not hold the facts: measure them with --docs.")
            elif evidence.diagnosis is not None and evidence.diagnosis.found_share < 0.5:
                found.append("These documents lack most of the missing facts: find those that hold them.")
            if evidence.retrieval is not None and evidence.retrieval.score.value < evidence.target:
                found.append(
                    "If retrieval gives the facts and the form is still wrong, fine-tune for the form on rows that "
                    "carry the retrieved passages."
                )
            bits, pairs = evidence.bits_per_byte, evidence.pair_bits_per_byte
            if bits is not None and pairs is not None and bits >= pairs:
                found.append("This model can hardly read the text: try another base model before you judge retrieval.")
            if evidence.needs.fresh_data is None:
                found.append("Facts that never change and fit into the prompt: then say them there.")
        case "fine-tune":
            found.append(
                f"A prompt that reaches {points(evidence.target)}: the one measured was written from the data."
            )
            if not evidence.over_documents:
                found.append("Documents with what the model lacks: measure them with --docs.")
            if needs.latency_budget is None:
                found.append("A latency budget that this model does not keep: then a smaller one (--latency-budget).")
        case "fine-tune a smaller model":
            found.append("A looser latency budget or a smaller volume: then the prompt is enough.")
        case "continued pretraining":
            found.append("A base model that knows the language: try one with --model before any pretraining.")
        case "collect more data first":
            found.append(f"{evidence.minimum_rows:,} different rows that agree; {evidence.good_rows:,} are good.")
        case "revisit prompt engineering":
            found.append("More held-out rows (--rows) may show that the target is met, or clearly missed.")
            if needs.monthly_calls is None and needs.latency_budget is None:
                found.append("A latency budget or a volume that this model does not keep.")
    return tuple(found)


def _measured(row: Alternative, best: Baseline | None) -> Alternative:
    if best is None:
        return row
    return Alternative(
        row.approach,
        row.best_when,
        row.cost,
        row.effort,
        row.latency_impact,
        score=best.score,
        latency_seconds=best.latency_seconds,
        usd_per_thousand_calls=best.usd_per_thousand_calls,
    )


def _planned(row: Alternative, evidence: Evidence, training: Training | None) -> Alternative:
    dollars = None if training is None or training.usd is None else training.usd + EFFORT_USD
    return Alternative(
        row.approach,
        row.best_when,
        row.cost,
        row.effort,
        row.latency_impact,
        usd_per_thousand_calls=evidence.tuned_call_usd,
        upfront_usd=dollars,
    )
