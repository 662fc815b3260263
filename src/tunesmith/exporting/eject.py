"""Eject: the run as a plain TRL/PEFT script that a person can own, with nothing of Tunesmith left in it.

The script has the run's model, adapter, objective and hyperparameters, and reads the run's rows, split as they were,
from files beside the run (`tunesmith.exporting.trl_rows`).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tunesmith import storage
from tunesmith.dataset.run_rows import RunRows, read_rows
from tunesmith.errors import RunError
from tunesmith.exporting.trl_rows import trl_rows
from tunesmith.models.load import PLAIN_TEMPLATE, load_tokenizer, resolve_model
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
    rewards_of,
)

MICRO_BATCH = 4
"""Rows of one pass through TRL; the rest of a step's are accumulated."""


def eject(run: RunFolder) -> str:
    """The text of a Python script that does the same with TRL and PEFT; its rows are written into `run`'s folder.

    Raises RunError when TRL has nothing to do it with, DataError when TRL cannot learn from the rows.
    """
    spec = run.load_spec()
    script = trainer_script(run, spec, read_rows(spec.data, spec.training.seed), folder=run.ejected)
    return script + "trainer.train()\ntrainer.save_model(OUTPUT)\n"


def trainer_script(run: RunFolder, spec: RunSpec, rows: RunRows, *, folder: Path) -> str:
    """The script up to where its `trainer` is made; `rows` are written into `folder`. Raises as `eject` does."""
    trainer, options, setup = _trainer(run, spec)
    if spec.adapter.kind == "prefix":
        options["gradient_checkpointing"] = False  # TRL's default; it forgets the keys and values that are learned
    folder = folder.resolve()
    parts = {"train": rows.train} | ({"eval": rows.validation} if rows.validation else {})
    written = {name: trl_rows(part, spec.objective) for name, part in parts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in written.items():
        storage.write_bytes(folder / f"{name}.jsonl", content)
    module = "trl.experimental." + trainer.lower() if trainer in ("ORPO", "CPO") else "trl"
    lines = [
        f'"""{run.root.name}: the same run with TRL and PEFT."""',
        "",
        *_imports(spec),
        f"from {module} import {trainer}Config, {trainer}Trainer",
        "",
        f"MODEL = {resolve_model(spec.model)!r}",
        f"ROWS = {str(folder)!r}",
        f"OUTPUT = {str(folder / 'output')!r}",
        "",
        *setup,
        *_model(spec),
        "",
        *(f"{name}_rows = load_dataset('json', data_files=ROWS + '/{name}.jsonl', split='train')" for name in parts),
        "",
        *_arguments(trainer, options, spec.training, validates="eval" in parts),
        *_adapter(spec.adapter, "SEQ_CLS" if isinstance(spec.objective, RewardSpec) else "CAUSAL_LM"),
        f"trainer = {trainer}Trainer(",
        "    model=model,",
        "    args=args,",
        *(["    reward_funcs=rewards,"] if trainer == "GRPO" else []),
        *(f"    {name}_dataset={name}_rows," for name in parts),
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
            if not objective.sft_weight:
                return "DPO", {"beta": objective.beta, "loss_type": [objective.loss_type]}, []
            mix = {"loss_type": [objective.loss_type, "sft"], "loss_weights": [1.0, objective.sft_weight]}
            return "DPO", {"beta": objective.beta, **mix}, []
        case RewardSpec():
            center = objective.center_rewards_coefficient
            return "Reward", {} if center is None else {"center_rewards_coefficient": center}, []
        case GrpoSpec():
            names = (
                "num_generations", "max_completion_length", "loss_type", "importance_sampling_level", "scale_rewards",
                "mask_truncated_completions", "beta", "epsilon", "epsilon_high", "num_iterations", "reward_weights",
                "temperature",
            )  # fmt: skip
            setup = [*_sampler(objective), *_rewards(run, rewards_of(objective))]
            return "GRPO", {name: getattr(objective, name) for name in names}, setup
        case PpoSpec():
            raise RunError(f"{run.root}: TRL has no PPO trainer any more; eject a grpo run instead")
        case RlhfSpec():
            raise RunError(f"{run.root}: rlhf is two runs; eject {run.root / 'reward'}, and a grpo run that it rewards")


def _sampler(objective: GrpoSpec) -> list[str]:
    """TRL hands on whole weights, over NCCL, to a vLLM that is started for that: ours cannot serve it."""
    if objective.vllm_url is None:
        return []
    return [
        f"# The run's replies were made by the vLLM at {objective.vllm_url}; here the model makes them itself. For a",
        "# vLLM add use_vllm=True, vllm_mode='server' and vllm_server_base_url to the arguments, and start it with",
        """# VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config '{"backend": "nccl"}'.""",
        "",
    ]


def _rewards(run: RunFolder, rewards: Sequence[str]) -> list[str]:
    folders, scores = zip(*(_reward(run, reward) for reward in rewards), strict=True)
    return [
        *(f"sys.path.insert(0, {str(folder)!r})" for folder in dict.fromkeys(folders)),
        *_CALL,
        "rewards = [",
        *(f"    rewarding({score})," for score in scores),
        "]",
    ]


def _reward(run: RunFolder, reward: str) -> tuple[Path, str]:
    """The folder that its function imports from, and the function."""
    if Path(reward).is_dir():
        raise RunError(
            f"{run.root}: its reward is a model in {reward}, which TRL loads from a merged folder; eject a run whose "
            "reward is a Python function"
        )
    place, _, name = reward.rpartition(":")
    if not place.endswith(".py"):
        return Path.cwd(), f"importlib.import_module({place!r}).{name}"
    file = Path(place).resolve()
    return file.parent, f"runpy.run_path({str(file)!r})[{name!r}]"


_CALL = [
    "",
    "",
    "def rewarding(score):",
    "    wanted = inspect.signature(score).parameters",
    "    every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in wanted.values())",
    "",
    "    def reward(prompts, completions, **columns):",
    "        texts = [completion[-1]['content'].strip() for completion in completions]",
    "        given = {'prompts': [asked(prompt) for prompt in prompts], 'completions': texts, **columns}",
    "        return score(**{name: value for name, value in given.items() if every or name in wanted})",
    "",
    "    reward.__name__ = getattr(score, '__name__', 'reward')",
    "    return reward",
    "",
    "",
    "def asked(prompt):",
    "    if len(prompt) == 1:",
    "        return prompt[0]['content']",
    "    return '\\n\\n'.join(f\"{message['role']}: {message['content']}\" for message in prompt)",
    "",
    "",
]


def _imports(spec: RunSpec) -> Iterator[str]:
    if isinstance(spec.objective, GrpoSpec):
        yield from ("import importlib", "import inspect", "import runpy", "import sys", "")
    yield "import torch"
    yield "from datasets import load_dataset"
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
    if (template := load_tokenizer(spec.model).chat_template) == PLAIN_TEMPLATE:
        yield f"tokenizer.chat_template = {template!r}"
    yield f"torch.manual_seed({spec.training.seed})"
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


def _arguments(trainer: str, options: dict[str, Any], training: TrainingSpec, *, validates: bool) -> Iterator[str]:
    size = training.batch_size * options.get("num_generations", 1)
    micro = MICRO_BATCH if size % MICRO_BATCH == 0 else 1
    if trainer == "GRPO":
        micro = options["num_generations"]
    values: dict[str, Any] = {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": size // micro,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if training.scheduler == "constant" else training.scheduler,
        "warmup_steps": training.warmup,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "seed": training.seed,
        "bf16": training.precision == "bf16",
        "eval_strategy": "epoch" if validates else "no",
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
    if training.precision == "bf16":
        yield "    use_cpu=not torch.accelerator.is_available(),"  # or transformers refuses bf16 without a GPU
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
