"""The run's model card: `README.md` with the metadata block that the Hugging Face hub reads.

It is made of what the run folder holds and of nothing else; what is not known (the licence of an unknown base) is
said to be unknown rather than guessed. Format: https://huggingface.co/docs/hub/model-cards.
"""

import re
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
import yaml

from tunesmith import storage
from tunesmith.evaluation.result import Estimate, Evaluation, MetricComparison
from tunesmith.models.load import EMBEDDED
from tunesmith.planning.data_facts import DataFacts
from tunesmith.quality.report import CheckReport
from tunesmith.run_folder import RunFolder
from tunesmith.spec import GrpoSpec, ObjectiveSpec, PpoSpec, RewardSpec, RlhfSpec, RunSpec
from tunesmith.training.events import EndEvent, EvalEvent, StartEvent, read_events

_E = TypeVar("_E", StartEvent, EndEvent)

Form: TypeAlias = Literal["adapter", "merged", "gguf", "hosted"]
"""What the card lies beside: a PEFT adapter, plain weights, a GGUF file, or nothing: the model is at a provider."""

_EMBEDDED_LICENSE = "apache-2.0"
_ADAPTER_NAMES = {"lora": "LoRA", "qlora": "QLoRA", "prefix": "prefix-tuning", "prompt": "prompt-tuning"}
_OBJECTIVES = {
    "sft": "supervised learning",
    "dpo": "direct preference optimization",
    "reward": "learning a reward from preference pairs",
    "grpo": "group-relative policy optimization",
    "ppo": "proximal policy optimization",
    "rlhf": "reinforcement learning from human feedback",
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LIBRARIES: dict[Form, str] = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
_RELATIONS: dict[Form, str] = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized", "hosted": "finetune"}
"""To the base model, in the hub's terms."""


class _HostedJob(msgspec.Struct):
    id: str
    tuned_model: str | None


class _HostedRun(msgspec.Struct):
    """The part of `provider.json` that the card shows."""

    job: _HostedJob


class _PlannedData(msgspec.Struct):
    """The part of `plan.json` that the card shows."""

    data: DataFacts


def write_card(run: RunFolder) -> Path:
    """Write the card of `run` to its `README.md` and return that path; results are in it once it was evaluated."""
    if run.provider.is_file() and not run.adapter.is_dir():
        job = msgspec.json.decode(run.provider.read_bytes(), type=_HostedRun).job
        text = card_text(run, form="hosted", weights=job.tuned_model or job.id)
    else:
        form: Form = "merged" if run.load_spec().adapter.kind == "full" else "adapter"
        weights = run.model if form == "merged" else run.adapter
        text = card_text(run, form=form, weights=f"{_name(run)}/{weights.name}")
    storage.write_text(run.card, text)
    return run.card


def card_text(run: RunFolder, *, form: Form, weights: str) -> str:
    """The card of `run` as Markdown, for the `form` of its weights that it lies beside; `weights` is their path."""
    spec = run.load_spec()
    evaluation = _read_evaluation(run)
    metadata = yaml.safe_dump(_metadata(run, spec, evaluation, form), sort_keys=False, allow_unicode=True)
    sections = [
        f"# {_name(run)}",
        _summary(spec, evaluation),
        _results(run, spec, evaluation),
        _data(run, spec),
        _training(run, spec),
        _limits(spec, evaluation),
        _use(run, spec, form, weights),
    ]
    return f"---\n{metadata}---\n\n" + "\n\n".join(sections) + "\n"


def is_hub_id(model: str) -> bool:
    """Whether `model` names a model on the hub rather than a folder here."""
    return _HUB_ID.fullmatch(model) is not None and not Path(model).exists()


def _metadata(run: RunFolder, spec: RunSpec, evaluation: Evaluation | None, form: Form) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        **({"library_name": _LIBRARIES[form]} if form in _LIBRARIES else {}),
        "pipeline_tag": "text-classification" if isinstance(spec.objective, RewardSpec) else "text-generation",
        **_license(spec),
        "tags": ["tunesmith", "fine-tuned", spec.adapter.kind, spec.objective.kind],
    }
    if is_hub_id(spec.model):
        metadata["base_model"] = spec.model
        metadata["base_model_relation"] = _RELATIONS[form]
    if evaluation is not None:
        metadata["model-index"] = [{"name": _name(run), "results": [_hub_result(evaluation)]}]
    return metadata


def _hub_result(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "task": {"type": "text-generation", "name": evaluation.task},
        "dataset": {"type": "private", "name": Path(evaluation.data).name},
        "metrics": [
            {"type": metric.name.replace(" ", "_").lower(), "name": metric.name, "value": round(metric.tuned.value, 6)}
            for metric in evaluation.metrics
        ],
    }


def _license(spec: RunSpec) -> dict[str, str]:
    """The licence fields of the base model's own card; a derived model cannot be freer than its base."""
    if spec.model == EMBEDDED:
        return {"license": _EMBEDDED_LICENSE}
    card = _base_card(spec.model)
    block = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    try:
        metadata = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError:
        metadata = None
    found = metadata if isinstance(metadata, dict) else {}
    named = {key: str(found[key]) for key in ("license", "license_name", "license_link") if key in found}
    return {"license": "unknown", **named}


def _base_card(model: str) -> str:
    """The text of the base model's card: in its folder, or where the hub's cache has it; empty where neither does."""
    card = Path(model).expanduser() / "README.md"
    if is_hub_id(model):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model, "README.md")
        card = Path(cached) if isinstance(cached, str) else card
    return card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""


def _summary(spec: RunSpec, evaluation: Evaluation | None) -> str:
    kind = (
        "All parameters"
        if spec.adapter.kind == "full"
        else f"A {_ADAPTER_NAMES.get(spec.adapter.kind, spec.adapter.kind)} adapter"
    )
    verdict = f" {evaluation.verdicts[0].finding}" if evaluation is not None else ""
    way = _OBJECTIVES[spec.objective.kind]
    return f"{kind} of `{spec.model}`, fine-tuned by {way} with Tunesmith.{verdict}"


def _results(run: RunFolder, spec: RunSpec, evaluation: Evaluation | None) -> str:
    if isinstance(spec.objective, RewardSpec):
        return f"## Results\n\n{_told_right(run) or 'No pairs were held out.'}"
    if evaluation is None:
        return "## Results\n\nNot evaluated yet: `tunesmith evaluate` compares it with its base on held-out rows."
    rows = [
        f"| {metric.name} | {metric.rows} | {_estimate(metric.base)} | {_estimate(metric.tuned)} "
        f"| {_estimate(metric.difference, signed=True)} | {_read(metric)} |"
        for metric in evaluation.metrics
    ]
    verdicts = [f"* **{v.name}** ({v.status}): {v.finding} {v.mend}".rstrip() for v in evaluation.verdicts]
    methods = dict.fromkeys(f"{metric.name}: {metric.method}" for metric in evaluation.metrics)
    return "\n".join(
        [
            "## Results",
            "",
            f"Base and tuned model on the same {evaluation.rows} held-out rows, with 95% intervals.",
            "",
            "| metric | rows | base | tuned | difference | |",
            "| --- | ---: | ---: | ---: | ---: | --- |",
            *rows,
            "",
            *verdicts,
            "",
            "How the intervals were made: " + "; ".join(methods) + ".",
        ]
    )


def _data(run: RunFolder, spec: RunSpec) -> str:
    lines = ["## Data", "", f"* training file: `{Path(spec.data.train).name}`"]
    start = _read_event(run, StartEvent)
    if start is not None:
        lines.append(f"* rows: {start.train_rows:,} to train on, {start.eval_rows:,} held out")
    if start is not None and start.total_parameters:  # a hosted provider tells neither
        lines.append(
            f"* truncated to {spec.training.max_length:,} tokens: {start.truncated_rows:,} rows, "
            f"{start.supervised_tokens_lost:.1%} of the supervised tokens"
        )
    if run.plan.is_file():
        facts = msgspec.json.decode(run.plan.read_bytes(), type=_PlannedData).data
        lines.append(
            f"* tokens: {facts.tokens:,}, {_learned_from(spec, facts)}; "
            f"a row has {facts.median:,} at the median, {facts.p95:,} at the 95th percentile, {facts.longest:,} at most"
        )
    if spec.data.eval is None:
        lines.append(
            "* held-out rows were split off by near-duplicate cluster, so none has a twin in the training rows"
        )
    if run.check.is_file():
        report = msgspec.json.decode(run.check.read_bytes(), type=CheckReport)
        problems = [finding for finding in report.findings if finding.status != "pass"]
        lines.append(f"* checklist over {report.rows:,} rows: {report.status}")
        lines += [f"  * {finding.check} ({finding.status}): {finding.finding}" for finding in problems]
    return "\n".join(lines)


def _learned_from(spec: RunSpec, facts: DataFacts) -> str:
    if isinstance(spec.objective, GrpoSpec | PpoSpec | RlhfSpec):
        return "prompts to which the policy learned from replies of its own"
    return f"of which {facts.supervised_tokens:,} are learned from"


def _told_right(run: RunFolder) -> str | None:
    """Of a reward run: how many held-out pairs its kept weights tell right."""
    evals = [event for event in read_events(run.events) if isinstance(event, EvalEvent) and event.best]
    start = _read_event(run, StartEvent)
    if not evals or start is None:
        return None
    share = evals[-1].measures.get("accuracy", 0.0)
    return f"It scores the chosen reply above the rejected one in {share:.0%} of {start.eval_rows:,} held-out pairs."


def _options(objective: ObjectiveSpec) -> dict[str, object]:
    """The objective's own, one level deep; where a reward came from may be private."""
    found: dict[str, object] = {}
    for name, value in objective.model_dump(exclude_none=True, exclude={"kind", "reward"}).items():
        found |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return found


def _training(run: RunFolder, spec: RunSpec) -> str:
    values = {
        "objective": spec.objective.kind,
        **_options(spec.objective),
        "adapter": spec.adapter.kind,
        **spec.adapter.model_dump(exclude={"kind"}),
        **spec.training.model_dump(exclude_none=True, exclude={"early_stopping", "checkpoint_every", "report_to"}),
    }
    rows = [f"| {name} | {value} |" for name, value in values.items()]
    start, end = _read_event(run, StartEvent), _read_event(run, EndEvent)
    trained = []
    if start is not None and start.total_parameters:
        share = start.trainable_parameters / start.total_parameters
        trained.append(f"* parameters: {start.trainable_parameters:,} of {start.total_parameters:,} ({share:.2%})")
    if end is not None:
        kept = "" if end.best_step is None else f", the weights of step {end.best_step:,} kept"
        trained.append(f"* steps: {end.step:,}{kept}; it took {end.seconds:,.0f} seconds")
    if isinstance(spec.objective, RlhfSpec) and (told := _told_right(run.reward_model)):
        trained.append(f"* reward model, trained first: {told[0].lower()}{told[1:]}")
    return "\n".join(["## Training", "", *trained, "", "| name | value |", "| --- | --- |", *rows])


def _limits(spec: RunSpec, evaluation: Evaluation | None) -> str:
    lines = [
        "## Limits",
        "",
        "* It was tuned for the task of its training data; outside of it, expect its base model or worse.",
    ]
    lines.append("* It has the biases and the gaps of its base and of its training data, and it may state falsehoods.")
    if evaluation is not None:
        lines.append(
            f"* The results rest on {evaluation.rows} rows like the training data; other inputs were not measured."
        )
    if _license(spec)["license"] == "unknown":
        lines.append("* The licence of the base model is not known here; its terms bind this model too.")
    return "\n".join(lines)


def _use(run: RunFolder, spec: RunSpec, form: Form, weights: str) -> str:
    base = spec.model if is_hub_id(spec.model) else "BASE"
    if isinstance(spec.objective, RewardSpec):
        return (
            "## Use\n\nIt scores replies: name its run folder as `objective.reward` of a `grpo` or `ppo` run. The "
            "score is the one output at a reply's last token (`AutoModelForSequenceClassification`, `num_labels=1`, "
            f"base `{base}`)."
        )
    match form:
        case "adapter":
            return (
                "## Use\n\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
                f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
                f'model = PeftModel.from_pretrained(base, "{weights}")\n```\n\n'
                "Merge the adapter before serving: it saves the adapter's extra work at every token.\n\n"
                f"```sh\ntunesmith export {_name(run)} --to merged\n```"
            )
        case "merged":
            return f"## Use\n\n```sh\ntransformers chat {weights}\n```"
        case "hosted":
            return f"## Use\n\nThe model is at the provider that trained it; ask there for `{weights}`."
        case "gguf":
            return f"## Use\n\n```sh\nllama-cli -m {weights}\n```"


def _read(metric: MetricComparison) -> str:
    return {"none": "no difference shown", "good": "better", "bad": "worse"}[metric.change(metric.difference)]


def _estimate(estimate: Estimate, *, signed: bool = False) -> str:
    value, low, high = (_number(part, "+" if signed else "") for part in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def _number(value: float, sign: str) -> str:
    return f"{value:{sign}.3f}" if abs(value) < 1000 else f"{value:{sign}.3g}"


def _name(run: RunFolder) -> str:
    return run.root.resolve().name


def _read_evaluation(run: RunFolder) -> Evaluation | None:
    if not run.evaluation.is_file():
        return None
    return msgspec.json.decode(run.evaluation.read_bytes(), type=Evaluation)


def _read_event(run: RunFolder, kind: type[_E]) -> _E | None:
    """The last event of a kind; None where there is none."""
    return next((event for event in reversed(read_events(run.events)) if isinstance(event, kind)), None)
