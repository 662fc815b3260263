"""The run's model card: `README.md` with the metadata block that the Hugging Face hub reads.

It is made of what the run folder holds and of nothing else; what is not known (the licence of an unknown base) is
said to be unknown rather than guessed. Format: https://huggingface.co/docs/hub/model-cards.
"""

import re
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tunesmith import storage
from tunesmith.evaluation.result import Estimate, Evaluation, MetricComparison
from tunesmith.models.load import EMBEDDED
from tunesmith.quality.report import CheckReport
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec
from tunesmith.training.events import StartEvent, read_events

_EMBEDDED_LICENSE = "apache-2.0"
_ADAPTER_NAMES = {"lora": "LoRA"}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write_card(run: RunFolder) -> Path:
    """Write the card of `run` to its `README.md` and return that path; results are in it once it was evaluated."""
    spec = run.load_spec()
    evaluation = _read_evaluation(run)
    metadata = yaml.safe_dump(_metadata(run, spec, evaluation), sort_keys=False, allow_unicode=True)
    sections = [
        f"# {_name(run)}",
        _summary(spec, evaluation),
        _results(evaluation),
        _data(run, spec),
        _training(spec),
        _limits(spec, evaluation),
        _use(run),
    ]
    storage.write_text(run.card, f"---\n{metadata}---\n\n" + "\n\n".join(sections) + "\n")
    return run.card


def _metadata(run: RunFolder, spec: RunSpec, evaluation: Evaluation | None) -> dict[str, Any]:
    is_adapter = spec.adapter.kind != "full"
    metadata: dict[str, Any] = {
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": "text-generation",
        "license": _license(spec),
        "tags": ["tunesmith", "fine-tuned", spec.adapter.kind, spec.objective.kind],
    }
    if _HUB_ID.fullmatch(spec.model) and not Path(spec.model).exists():
        metadata["base_model"] = spec.model
        metadata["base_model_relation"] = "adapter" if is_adapter else "finetune"
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


def _license(spec: RunSpec) -> str:
    """The base model's licence, where its own card names it; a derived model cannot be freer than its base."""
    if spec.model == EMBEDDED:
        return _EMBEDDED_LICENSE
    card = Path(spec.model).expanduser() / "README.md"
    if not card.is_file():
        return "unknown"
    block = re.match(r"---\n(.*?)\n---\n", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        metadata = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError:
        return "unknown"
    return str(metadata.get("license", "unknown")) if isinstance(metadata, dict) else "unknown"


def _summary(spec: RunSpec, evaluation: Evaluation | None) -> str:
    kind = (
        "All parameters"
        if spec.adapter.kind == "full"
        else f"A {_ADAPTER_NAMES.get(spec.adapter.kind, spec.adapter.kind)} adapter"
    )
    verdict = f" {evaluation.verdicts[0].finding}" if evaluation is not None else ""
    return f"{kind} of `{spec.model}`, fine-tuned by supervised learning with Tunesmith.{verdict}"


def _results(evaluation: Evaluation | None) -> str:
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
    start = _read_start(run)
    if start is not None:
        lines.append(f"* rows: {start.train_rows:,} to train on, {start.eval_rows:,} held out")
        lines.append(
            f"* truncated to {spec.training.max_length:,} tokens: {start.truncated_rows:,} rows, "
            f"{start.supervised_tokens_lost:.1%} of the supervised tokens"
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


def _training(spec: RunSpec) -> str:
    values = {
        "objective": spec.objective.kind,
        "adapter": spec.adapter.kind,
        **({} if spec.adapter.kind == "full" else {"r": spec.adapter.r, "alpha": spec.adapter.alpha}),
        **({} if spec.adapter.kind == "full" else {"dropout": spec.adapter.dropout, "targets": spec.adapter.targets}),
        **spec.training.model_dump(exclude_none=True, exclude={"early_stopping", "checkpoint_every"}),
    }
    rows = [f"| {name} | {value} |" for name, value in values.items()]
    return "\n".join(["## Hyperparameters", "", "| name | value |", "| --- | --- |", *rows])


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
    if _license(spec) == "unknown":
        lines.append("* The licence of the base model is not known here; its terms bind this model too.")
    return "\n".join(lines)


def _use(run: RunFolder) -> str:
    if run.model.is_dir():
        return f"## Use\n\n```sh\ntransformers chat {_name(run)}/{run.model.name}\n```"
    return (
        "## Use\n\nMerge the adapter before serving: it saves the adapter's extra work at every token.\n\n"
        f"```sh\ntunesmith export {_name(run)} --to merged\ntransformers chat {_name(run)}/{run.merged.name}\n```"
    )


def _read(metric: MetricComparison) -> str:
    if not metric.significant:
        return "no difference shown"
    return "better" if (metric.difference.value > 0) == (metric.better == "higher") else "worse"


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


def _read_start(run: RunFolder) -> StartEvent | None:
    """The first start event; resumed runs have several, which agree on the data."""
    return next((event for event in read_events(run.events) if isinstance(event, StartEvent)), None)
