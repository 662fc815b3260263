"""Eject: the run as a plain TRL/PEFT script that a person can own, with nothing of Tunesmith left in it.

The script has the run's model, rows, adapter, objective and hyperparameters. What it cannot have is how the engine
differs from TRL's loop: held-out rows are split at random instead of by near-duplicate cluster, and of a conversation
only the last reply is trained on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.read import read
from tunesmith.errors import DataError, RunError
from tunesmith.models.load import resolve_model
from tunesmith.run_folder import RunFolder
from tunesmith.spec import (
    AdapterSpec,
    DpoSpec,
    GrpoSpec,
    ObjectiveSpec,
    PpoSpec,
    RewardSpec,
    RlhfSpec,
    RunSpec,
    SftSpec,
    TrainingSpec,
)

MICRO_BATCH = 4
"""Rows of one pass through TRL; the rest of a step's are accumulated."""

_SOURCE_KEYS = {"openai", "prompt-completion", "preference", "text"}
"""Formats that TRL reads, as they are or with the one line that the script has for it."""


def eject(run: RunFolder) -> str:
    """The text of a Python script that does the same with TRL and PEFT.

    Raises RunError when TRL has nothing to do it with, DataError when the rows are in a format that TRL
    does not read.
    """
    spec = run.load_spec()
    output = Path(f"{run.root.resolve()}-trl")
    return trainer_script(run, spec, output=output) + "trainer.train()\ntrainer.save_model(OUTPUT)\n"


def trainer_script(run: RunFolder, spec: RunSpec, *, output: Path, train_rows: int | None = None) -> str:
    """The script up to where its `trainer` is made; of rows that are split already, the first `train_rows` train.

    Raises as `eject` does.
    """
    trainer, options, setup = _trainer(run, spec)
    rows = _rows(spec)
    module = "trl.experimental." + trainer.lower() if trainer in ("ORPO", "CPO") else "trl"
    lines = [
        f'"""{run.root.name}: the same run with TRL and PEFT."""',
        "",
        *_imports(spec),
        f"from {module} import {trainer}Config, {trainer}Trainer",
        "",
        f"MODEL = {resolve_model(spec.model)!r}",
        f"DATA = {str(Path(spec.data.train).resolve())!r}",
        f"OUTPUT = {str(output)!r}",
        "",
        *setup,
        *_model(spec),
        "",
        *rows,
        *_held_out(spec, train_rows),
        *_replayed(spec),
        "",
        *_arguments(trainer, options, spec.training),
        *_adapter(spec.adapter, "SEQ_CLS" if isinstance(spec.objective, RewardSpec) else "CAUSAL_LM"),
        f"trainer = {trainer}Trainer(",
        "    model=model,",
        "    args=args,",
        *(["    reward_funcs=reward,"] if trainer == "GRPO" else []),
        "    train_dataset=train,",
        *(["    eval_dataset=held_out,"] if _validates(spec) else []),
        "    processing_class=tokenizer,",
        *([] if spec.adapter.kind == "full" else ["    peft_config=adapter,"]),
        ")",
    ]
    return "\n".join(lines) + "\n"


def _trainer(run: RunFolder, spec: RunSpec) -> tuple[str, dict[str, Any], list[str]]:
    """The trainer's name, its own options, and what must come before it."""
    objective: ObjectiveSpec = spec.objective
    match objective:
        case SftSpec():
            return "SFT", {}, []
        case DpoSpec(loss_type="orpo"):
            return "ORPO", {"beta": objective.beta}, []
        case DpoSpec(loss_type="simpo"):
            simpo = {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": objective.simpo_gamma}
            return "CPO", {"beta": objective.beta, **simpo}, []
        case DpoSpec(loss_type="kto"):
            weights = ("beta", "desirable_weight", "undesirable_weight")
            return "KTO", {name: getattr(objective, name) for name in weights}, []
        case DpoSpec():
            return "DPO", {"beta": objective.beta, "loss_type": [objective.loss_type]}, []
        case RewardSpec():
            center = objective.center_rewards_coefficient
            return "Reward", {} if center is None else {"center_rewards_coefficient": center}, []
        case GrpoSpec():
            names = (
                "num_generations", "max_completion_length", "loss_type", "scale_rewards", "beta", "epsilon",
                "num_iterations",
            )  # fmt: skip
            return "GRPO", {name: getattr(objective, name) for name in names}, _reward(run, objective.reward or "")
        case PpoSpec():
            raise RunError(f"{run.root}: TRL has no PPO trainer any more; eject a grpo run instead")
        case RlhfSpec():
            raise RunError(f"{run.root}: rlhf is two runs; eject {run.root / 'reward'}, and a grpo run that it rewards")


def _reward(run: RunFolder, reward: str) -> list[str]:
    if Path(reward).is_dir():
        raise RunError(
            f"{run.root}: its reward is a model in {reward}, which TRL loads from a merged folder; eject a run whose "
            "reward is a Python function"
        )
    place, _, name = reward.rpartition(":")
    if not place.endswith(".py"):
        return [f"from {place} import {name} as score", *_CALL]
    return [
        "import runpy",
        "",
        f"score = runpy.run_path({str(Path(place).resolve())!r})[{name!r}]",
        *_CALL,
    ]


_CALL = [
    "",
    "",
    "def reward(prompts, completions, **columns):",
    "    texts = [completion[-1]['content'] for completion in completions]",
    "    names = score.__code__.co_varnames[: score.__code__.co_argcount]",
    "    given = {'prompts': prompts, 'completions': texts, **columns}",
    "    return score(**{name: value for name, value in given.items() if name in names})",
    "",
    "",
]


def _imports(spec: RunSpec) -> Iterator[str]:
    yield "import torch"
    yield f"from datasets import {'concatenate_datasets, ' if spec.data.replay is not None else ''}load_dataset"
    config = {"prefix": "PrefixTuningConfig", "prompt": "PromptTuningConfig"}.get(spec.adapter.kind, "LoraConfig")
    if spec.adapter.kind != "full":
        yield f"from peft import {config}"
    head = "SequenceClassification" if isinstance(spec.objective, RewardSpec) else "CausalLM"
    quantized = ", BitsAndBytesConfig" if spec.adapter.kind == "qlora" else ""
    yield f"from transformers import AutoModelFor{head}, AutoTokenizer{quantized}"


def _model(spec: RunSpec) -> Iterator[str]:
    scalar = isinstance(spec.objective, RewardSpec)
    dtype = "torch.bfloat16" if spec.training.precision == "bf16" and spec.adapter.kind != "full" else "torch.float32"
    yield "tokenizer = AutoTokenizer.from_pretrained(MODEL)"
    yield f"model = AutoModelFor{'SequenceClassification' if scalar else 'CausalLM'}.from_pretrained("
    yield "    MODEL,"
    yield f"    dtype={dtype},"
    if scalar:
        yield "    num_labels=1,"
    if spec.adapter.kind == "qlora":
        yield "    quantization_config=BitsAndBytesConfig("
        yield "        load_in_4bit=True,"
        yield "        bnb_4bit_quant_type='nf4',"
        yield "        bnb_4bit_use_double_quant=True,"
        yield "        bnb_4bit_compute_dtype=torch.bfloat16,"
        yield "    ),"
    yield ")"


def _rows(spec: RunSpec) -> Iterator[str]:
    kind = _format(spec.data.train)
    if kind not in _SOURCE_KEYS:
        raise DataError(
            f"{spec.data.train}: TRL does not read {kind} rows; convert them with: tunesmith data convert "
            f"{spec.data.train} OUT.jsonl --to openai"
        )
    yield "rows = load_dataset('json', data_files=DATA, split='train')"
    online = isinstance(spec.objective, GrpoSpec)
    if kind == "openai":
        yield ""
        yield ""
        yield "def split(row):"
        yield "    return {'prompt': row['messages'][:-1], 'completion': row['messages'][-1:]}"
        yield ""
        yield ""
        yield "rows = rows.map(split, remove_columns=['messages'])"
    if kind in ("prompt-completion", "preference"):
        answers = [key for key in ("completion", "chosen", "rejected") if not online and key in _columns(spec)]
        yield ""
        yield ""
        yield "def converse(row):"
        yield "    turns = {'prompt': [{'role': 'user', 'content': row['prompt']}]}"
        for key in answers:
            yield f"    turns[{key!r}] = [{{'role': 'assistant', 'content': row[{key!r}]}}]"
        if isinstance(spec.objective, DpoSpec) and spec.objective.loss_type == "kto":
            yield "    turns['label'] = row['label']"
        if isinstance(spec.objective, SftSpec) and kind == "preference":
            yield "    turns['completion'] = turns.pop('chosen')"
            yield "    turns.pop('rejected')"
        yield "    return turns"
        yield ""
        yield ""
        yield "if isinstance(rows[0]['prompt'], str):"
        yield "    rows = rows.map(converse, remove_columns=rows.column_names)"


def _columns(spec: RunSpec) -> set[str]:
    match spec.objective:
        case DpoSpec(loss_type="kto"):
            return {"completion"}
        case DpoSpec() | RewardSpec():
            return {"chosen", "rejected"}
        case _:
            first = next(iter(read(spec.data.train)))
            paired = isinstance(first, Conversation) and bool(first.rejected)
            return {"chosen", "rejected"} if paired else {"completion"}


def _validates(spec: RunSpec) -> bool:
    return spec.data.eval is None and spec.data.holdout > 0


def _held_out(spec: RunSpec, train_rows: int | None) -> Iterator[str]:
    if _validates(spec) and train_rows is not None:
        yield f"train, held_out = rows.select(range({train_rows})), rows.select(range({train_rows}, len(rows)))"
    elif _validates(spec):
        yield f"parts = rows.train_test_split(test_size={spec.data.holdout}, seed={spec.training.seed})"
        yield "train, held_out = parts['train'], parts['test']"
    else:
        yield "train = rows"


def _replayed(spec: RunSpec) -> Iterator[str]:
    if spec.data.replay is None:
        return
    for path in (spec.data.train, spec.data.replay):
        if (kind := _format(path)) != "openai":
            raise DataError(
                f"{path}: with data.replay the script wants openai rows on both sides, and these are {kind}; convert "
                f"them with: tunesmith data convert {path} OUT.jsonl --to openai"
            )
    replay = str(Path(spec.data.replay).resolve())
    yield f"general = load_dataset('json', data_files={replay!r}, split='train')"
    yield "train = concatenate_datasets([train, general.map(split, remove_columns=['messages'])])"


def _format(path: str) -> str:
    """The format of the first row, which stands for all: TRL reads one format."""
    first = next(iter(read(path)))
    return first.source.format if isinstance(first, Conversation) and first.source is not None else "?"


def _arguments(trainer: str, options: dict[str, Any], training: TrainingSpec) -> Iterator[str]:
    size = training.batch_size * options.get("num_generations", 1)
    micro = MICRO_BATCH if size % MICRO_BATCH == 0 else 1
    if trainer == "GRPO":
        micro = options["num_generations"]
    values: dict[str, Any] = {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": size // micro,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.scheduler,
        "warmup_steps": training.warmup,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "seed": training.seed,
        "bf16": training.precision == "bf16",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_steps": 1,
        "report_to": "none",
    }
    if training.steps is None:
        values["num_train_epochs"] = training.planned_epochs
    else:
        values["max_steps"] = training.steps
    if trainer != "GRPO":
        values["max_length"] = training.max_length
    else:
        values["per_device_eval_batch_size"] = micro
    yield f"args = {trainer}Config("
    yield "    output_dir=OUTPUT,"
    for name, value in (values | options).items():
        yield f"    {name}={value!r},"
    yield ")"


def _adapter(adapter: AdapterSpec, task: str) -> Iterator[str]:
    match adapter.kind:
        case "full":
            return
        case "lora" | "qlora":
            yield "adapter = LoraConfig("
            yield f"    task_type={task!r},"
            yield f"    r={adapter.r},"
            yield f"    lora_alpha={adapter.alpha:g},"
            yield f"    lora_dropout={adapter.dropout},"
            yield f"    target_modules={adapter.targets!r},"
            yield f"    use_rslora={adapter.rslora},"
            yield f"    use_dora={adapter.dora},"
            yield f"    init_lora_weights={True if adapter.init == 'default' else adapter.init!r},"
            yield ")"
        case "prefix":
            yield f"adapter = PrefixTuningConfig(task_type={task!r}, num_virtual_tokens={adapter.virtual_tokens})"
        case "prompt":
            yield "adapter = PromptTuningConfig("
            yield f"    task_type={task!r},"
            yield f"    num_virtual_tokens={adapter.virtual_tokens},"
            yield "    prompt_tuning_init='SAMPLE_VOCAB',"
            yield ")"
