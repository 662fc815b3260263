"""One optimizer step of any method on made-up rows: the engine itself, for those who ask what a step holds.

`memory_trace` runs it on fake tensors and `benchmarks.memory` on real ones, so both see what training does, whatever
the engine comes to do. Rows are padded side by side, as on a GPU; the forest that a CPU gets holds no padding, but the
attention weights of short blocks.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn

from tunesmith.dataset.conversation import Conversation
from tunesmith.models.adapters import attach
from tunesmith.models.load import stay_differentiable
from tunesmith.planning.memory import COMPLETIONS
from tunesmith.planning.workload import Method, Workload
from tunesmith.spec import AdapterSpec, GrpoSpec, PpoSpec
from tunesmith.training import ranks
from tunesmith.training.batches import Example, Row
from tunesmith.training.engine import Engine, make_optimizer
from tunesmith.training.objectives.dpo import Dpo
from tunesmith.training.objectives.grpo import Grpo
from tunesmith.training.objectives.ppo import Ppo
from tunesmith.training.objectives.sft import Sft
from tunesmith.training.preference import Pair
from tunesmith.training.prompt import Prompt
from tunesmith.training.reference import Reference
from tunesmith.training.rewards import Rewards
from tunesmith.training.rollouts import Policy
from tunesmith.training.sharding import give_back, shard
from tunesmith.training.token_loss import TokenLoss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tunesmith.models.load import Model

MICRO_BATCHES = 2
"""From the second micro-batch on the gradients are there."""


class Learner(NamedTuple):
    """A model as `method` trains it, and the reward model beside it, which PPO has."""

    model: "Model"
    judge: nn.Module | None


def build_learner(config: dict[str, Any], method: Method, work: Workload) -> Learner:
    """The config.json's causal language model with new weights and what learns in it, where torch makes new tensors.

    Raises as transformers, PEFT and bitsandbytes do where they cannot build it.
    """
    model = attach(_build_base(config, method, work), _adapter(method, work)).train()
    if work.checkpointing:
        model.activation_checkpointing_enable()
    return Learner(model, _build_base(config, method, work) if method == "ppo" else None)


def sample_step(learner: Learner, method: Method, work: Workload) -> Callable[[], object]:
    """What trains `learner` by `method` for one step, in `MICRO_BATCHES` micro-batches of `work` on each rank.

    It is no first step: the optimizer has its moments.
    """
    model = learner.model
    if ranks.count() > 1 and (method == "full" or work.sharded):  # as `wants_sharding` has it
        shard(model, torch.device("cpu"), bf16=work.precision == "bf16")
    objective = _objective(learner, method, work)
    objective.reads_forest = False
    give_back(model)
    learning: nn.Module = model
    if isinstance(objective, Ppo):
        learning = nn.ModuleDict({"policy": model, "value_head": objective.value_head})
    engine = Engine(
        learning,
        objective,
        _with_moments(make_optimizer(learning, weight_decay=0.01)),
        device=torch.device("cpu"),
        bf16=work.precision == "bf16",
        max_grad_norm=1.0,
        seed=0,
        micro_batch_tokens=(2 if method == "dpo" else 1) * work.tokens,
    )
    examples = _examples(method, work, model.config.get_text_config().vocab_size)
    return lambda: engine.step(examples, step=0, learning_rate=1e-4)


def _with_moments(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer as it is after a step whose gradients were zero."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def _build_base(config: dict[str, Any], method: Method, work: Workload) -> "PreTrainedModel":
    from transformers import AutoConfig, AutoModelForCausalLM

    # All parameters that learn are fp32 under autocast; a frozen base is in the run's precision.
    dtype = torch.bfloat16 if work.precision == "bf16" and method != "full" else torch.float32
    architectures: Any = AutoModelForCausalLM  # transformers leaves from_config untyped
    base: PreTrainedModel = architectures.from_config(AutoConfig.for_model(**config), dtype=dtype)
    if base.generation_config is not None:
        base.generation_config.eos_token_id = None  # replies that are sampled take all the tokens they may
    if method == "qlora":
        _quantize(base)
    return base


def _adapter(method: Method, work: Workload) -> AdapterSpec:
    match method:
        case "full":
            return AdapterSpec(kind="full")
        case "prefix" | "prompt":
            return AdapterSpec(kind=method, virtual_tokens=work.virtual_tokens)
        case "qlora":
            return AdapterSpec(kind="qlora", r=work.rank)
        case _:
            return AdapterSpec(kind="lora", r=work.rank)


def _objective(learner: Learner, method: Method, work: Workload) -> Any:
    model, judge = learner.model, Rewards({"judge": _Judge(learner.judge)})
    if method == "dpo":
        return Dpo(model, loss_type="sigmoid", beta=0.1)
    if method not in ("grpo", "ppo"):
        return Sft(model)
    tokenizer: Any = _NoText(model.config.get_text_config().vocab_size)
    reply = _supervised(work)
    policy = Policy(model, tokenizer, Reference(model, _adapter(method, work)), judge, max_completion_length=reply)
    if method == "grpo":
        grpo = GrpoSpec(reward="made-up", num_generations=COMPLETIONS, max_completion_length=reply)
        return Grpo(grpo, policy, TokenLoss(model))
    ppo = PpoSpec(reward="made-up", max_completion_length=reply, num_ppo_epochs=1)
    return Ppo(ppo, model, policy, TokenLoss(model))


def _examples(method: Method, work: Workload, vocabulary: int) -> Sequence[Example]:
    random = np.random.default_rng(0)
    supervised = np.arange(work.length) >= work.length - _supervised(work)

    def row() -> Row:
        return Row(random.integers(0, vocabulary, work.length, dtype=np.int32), supervised)

    count = MICRO_BATCHES * work.rows * ranks.count()
    match method:
        case "dpo":
            return [Pair(row(), row(), (-1.0, -1.0)) for _ in range(count)]
        case "grpo" | "ppo":
            prompt = work.length - _supervised(work)
            asked = work.rollouts // COMPLETIONS if method == "grpo" else work.rollouts
            tokens = random.integers(0, vocabulary, (max(1, asked), prompt)).tolist()
            return [Prompt(tuple(row), Conversation(), None) for row in tokens]
        case _:
            return [row() for _ in range(count)]


def _supervised(work: Workload) -> int:
    """Of one row."""
    return max(1, round(work.length * work.supervised_share))


def _quantize(model: nn.Module) -> None:
    """Every linear layer but the head in NF4 with double quantization, as `load_model` asks transformers for it."""
    import bitsandbytes

    bnb: Any = bitsandbytes  # which is untyped
    with torch.device("cpu"):  # its table of numbers is made once, and cannot be made without data
        bnb.functional.name2qmap.setdefault("dynamic", bnb.functional.create_dynamic_map())
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and name != "lm_head":
                small = bnb.nn.Linear4bit(
                    layer.in_features,
                    layer.out_features,
                    bias=layer.bias is not None,
                    compute_dtype=torch.bfloat16,
                    quant_type="nf4",
                    device="meta",
                )
                weight = bnb.nn.Params4bit(
                    layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
                )
                small.weight, small.bias = weight._quantize(layer.weight.device), layer.bias
                small.weight.module = small
                setattr(parent, name, small)
    stay_differentiable(model)


class _Judge:
    """A reward model as large as the policy, which is held and never asked: every reply is as good as another."""

    def __init__(self, held: nn.Module | None) -> None:
        self._held = held

    def score(self, rows: Sequence[Conversation], replies: Sequence[str]) -> list[float]:
        return [0.0] * len(rows)


class _NoText:
    """A tokenizer without words and without an end: replies are as long as they may be, and nobody reads them."""

    chat_template = None
    eos_token_id = None
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def __len__(self) -> int:
        return self._vocabulary

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return ""
