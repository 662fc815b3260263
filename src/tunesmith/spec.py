"""The run spec: one YAML file, validated whole before anything heavy loads.

Unknown keys, wrong types and senseless values are errors that name the line and the nearest known key.
Values outside the field's typical range are legal but warned about (`range_warnings`), because a deadline
is no time to argue with a tool that knows better.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from tunesmith.errors import SpecError
from tunesmith.settings import http_url
from tunesmith.spec_errors import describe, describe_yaml


def _server(url: str) -> str:
    if http_url(url) is None:
        raise ValueError(f"{url} is no server's address; give it as http://127.0.0.1:8001/v1")
    return url


Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Server = Annotated[str, AfterValidator(_server)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSpec(_Section):
    """Which rows to train on and which to hold out."""

    train: str = Field(description="a data file in any supported format")
    eval: str | None = Field(None, description="a data file for validation; null holds out a part of `train`")
    holdout: Fraction = Field(0.1, description="share held out by near-duplicate cluster when `eval` is null")
    replay: str | None = Field(None, description="general rows mixed into training, so that they are not forgotten")


class AdapterSpec(_Section):
    """Which parameters learn. An option that its kind does not have is an error (see `ADAPTER_OPTIONS`)."""

    kind: Literal["full", "lora", "qlora", "prefix", "prompt"] = "lora"
    r: Positive = Field(16, description="rank of the LoRA matrices")
    alpha: Annotated[float, Field(gt=0)] = Field(32, description="LoRA scaling, usually twice the rank")
    dropout: Fraction = 0.0
    targets: Literal["all-linear"] | list[str] = Field("all-linear", description="module names: one or several")
    rslora: bool = Field(False, description="scale by alpha/√r instead of alpha/r")
    dora: bool = Field(False, description="learn each matrix's magnitude beside its direction")
    init: str = Field("default", description="PEFT's initialization of the LoRA matrices")
    virtual_tokens: Positive = Field(20, description="length of the soft prompt, or of the prefix of every layer")

    @field_validator("targets", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        if value == []:
            raise ValueError("no module is named; give all-linear, or names such as [q_proj, v_proj]")
        return [value] if isinstance(value, str) and value != "all-linear" else value

    @field_validator("init")
    @classmethod
    def _known_init(cls, value: str) -> str:
        if not re.fullmatch(r"default|gaussian|orthogonal|olora|pissa|pissa_niter_[1-9]\d*", value):
            raise ValueError(
                f"found {value!r}; expected default, gaussian, orthogonal, olora, pissa or pissa_niter_N (N a number)"
            )
        return value

    @model_validator(mode="after")
    def _options_belong_to_the_kind(self) -> Self:
        options = ADAPTER_OPTIONS[self.kind]
        for name in sorted(self.model_fields_set - {"kind"} - options):
            kinds = " and ".join(kind for kind, names in ADAPTER_OPTIONS.items() if name in names)
            raise ValueError(f"`{name}` is an option of {kinds}, not of {self.kind}; remove it, or change the kind")
        if self.kind == "qlora" and self.rewrites_base:
            raise ValueError(f"init {self.init} splits the base's weights, which qlora keeps in 4 bits; use kind: lora")
        return self

    @model_serializer(mode="wrap")
    def _own_options(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if key == "kind" or key in ADAPTER_OPTIONS[self.kind]}

    @property
    def rewrites_base(self) -> bool:
        """Whether the initialization moves a part of the base's weights into the adapter (PiSSA, OLoRA)."""
        return self.init.startswith(("pissa", "olora"))


_LORA_OPTIONS = frozenset({"r", "alpha", "dropout", "targets", "rslora", "dora", "init"})
_PROMPT_OPTIONS = frozenset({"virtual_tokens"})

ADAPTER_OPTIONS: dict[str, frozenset[str]] = {
    "full": frozenset(),
    "lora": _LORA_OPTIONS,
    "qlora": _LORA_OPTIONS,
    "prefix": _PROMPT_OPTIONS,
    "prompt": _PROMPT_OPTIONS,
}
"""Adapter kind → the options it has."""


class SftSpec(_Section):
    """Imitate the replies (of preference rows: the chosen ones)."""

    kind: Literal["sft"] = "sft"


class DpoSpec(_Section):
    """Prefer the chosen reply to the rejected one; `kto` learns from single replies judged good or bad."""

    kind: Literal["dpo"] = "dpo"
    loss_type: Literal["sigmoid", "ipo", "orpo", "simpo", "kto"] = "sigmoid"
    beta: Annotated[float, Field(gt=0)] = Field(0.1, description="how strongly preferences are held against drifting")
    simpo_gamma: float = Field(0.5, description="margin by which SimPO wants the chosen reply to win")
    desirable_weight: Annotated[float, Field(gt=0)] = Field(1.0, description="of KTO's good replies")
    undesirable_weight: Annotated[float, Field(gt=0)] = Field(1.0, description="of KTO's bad replies")
    sft_weight: Annotated[float, Field(ge=0)] = Field(
        0.0, description="of the chosen reply's own loss beside the preference's (RPO)"
    )

    @model_validator(mode="after")
    def _options_belong_to_the_loss(self) -> Self:
        for name in sorted(self.model_fields_set & _LOSS_OPTIONS.keys()):
            if self.loss_type not in _LOSS_OPTIONS[name]:
                losses = " and ".join(_LOSS_OPTIONS[name])
                raise ValueError(f"`{name}` is an option of loss_type: {losses}, not of {self.loss_type}; remove it")
        return self

    @model_serializer(mode="wrap")
    def _own_options(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {
            key: value for key, value in values.items() if self.loss_type in _LOSS_OPTIONS.get(key, (self.loss_type,))
        }


_LOSS_OPTIONS = {
    "simpo_gamma": ("simpo",),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
    "sft_weight": ("sigmoid", "ipo"),  # TRL's mix; ORPO's loss has such a part already
}


class RewardSpec(_Section):
    """A reward model: a scalar head that scores the chosen reply above the rejected one."""

    kind: Literal["reward"] = "reward"
    center_rewards_coefficient: Annotated[float, Field(gt=0)] | None = Field(
        None, description="pulls the scores towards a mean of zero (0.01 is usual)"
    )


class GrpoSpec(_Section):
    """Policy gradient on replies that the model makes itself, each judged against others to the same prompt."""

    kind: Literal["grpo"] = "grpo"
    reward: str | list[str] | None = Field(
        None, description="the folder of a reward run, path.py:function, or module:function; or several of them"
    )
    reward_weights: list[float] | None = Field(None, description="of several rewards in their sum; null: 1 each")
    num_generations: Annotated[int, Field(ge=2)] = Field(8, description="replies to each prompt of a step")
    max_completion_length: Positive = Field(256, description="tokens of a reply at most")
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="of the policy, that draws and that learns")
    vllm_url: Server | None = Field(None, description="a running vLLM that makes the replies (its /v1)")
    loss_type: Literal["dapo", "bnpo", "grpo", "dr_grpo"] = "dapo"
    importance_sampling_level: Literal["token", "sequence"] = Field(
        "token", description="whose probability is compared with what it was: each token's, or the reply's (GSPO)"
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", description="by whose standard deviation rewards are divided"
    )
    mask_truncated_completions: bool = Field(False, description="nothing is learned from replies cut off at the limit")
    beta: Annotated[float, Field(ge=0)] = Field(0.0, description="weight of the KL to the reference in the loss")
    epsilon: Annotated[float, Field(gt=0)] = Field(0.2, description="how far a token's probability may move at once")
    epsilon_high: Annotated[float, Field(gt=0)] | None = Field(
        None, description="how far up, where that is not `epsilon` (0.28 is DAPO's)"
    )
    num_iterations: Positive = Field(1, description="updates made of the same replies")


class PpoSpec(_Section):
    """Policy gradient with a value head, the KL to the reference being part of the reward."""

    kind: Literal["ppo"] = "ppo"
    reward: str | list[str] | None = Field(
        None, description="the folder of a reward run, path.py:function, or module:function; or several of them"
    )
    reward_weights: list[float] | None = Field(None, description="of several rewards in their sum; null: 1 each")
    max_completion_length: Positive = Field(256, description="tokens of a reply at most")
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="of the policy, that draws and that learns")
    vllm_url: Server | None = Field(None, description="a running vLLM that makes the replies (its /v1)")
    num_ppo_epochs: Positive = Field(4, description="updates made of the same replies")
    kl_coef: Annotated[float, Field(ge=0)] = 0.05
    cliprange: Annotated[float, Field(gt=0)] = 0.2
    vf_coef: Annotated[float, Field(ge=0)] = 0.1
    cliprange_value: Annotated[float, Field(gt=0)] = 0.2
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    lam: Annotated[float, Field(ge=0, le=1)] = 0.95


OnlineSpec: TypeAlias = Annotated[GrpoSpec | PpoSpec, Field(discriminator="kind")]


def rewards_of(objective: GrpoSpec | PpoSpec) -> list[str]:
    """What `reward` names, none to several."""
    named = objective.reward
    return named if isinstance(named, list) else [named] if named else []


class RlhfSpec(_Section):
    """A reward model from the preference rows, then a policy that it rewards, both by the same `training` section."""

    kind: Literal["rlhf"] = "rlhf"
    reward_model: RewardSpec = RewardSpec()
    policy: OnlineSpec = PpoSpec()

    @model_validator(mode="after")
    def _the_reward_is_trained(self) -> Self:
        for name in ("reward", "reward_weights"):
            if getattr(self.policy, name) is not None:
                raise ValueError(
                    f"rlhf trains the reward model itself; remove policy.{name}, or use kind: {self.policy.kind}"
                )
        return self


ObjectiveSpec: TypeAlias = Annotated[
    SftSpec | DpoSpec | RewardSpec | GrpoSpec | PpoSpec | RlhfSpec, Field(discriminator="kind")
]
"""What the parameters learn from: one class per kind, with the options that it has."""

OBJECTIVES: dict[str, type[_Section]] = {
    kind.model_fields["kind"].default: kind for kind in get_args(get_args(ObjectiveSpec)[0])
}
"""Objective kind → its class."""


class EarlyStoppingSpec(_Section):
    """Stop when validation loss has not improved for `patience` evaluations in a row."""

    patience: Positive = 2


Tracker: TypeAlias = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class TrainingSpec(_Section):
    """How they learn. Defaults follow the field's typical ranges (see `planning/typical.py`)."""

    epochs: Annotated[float, Field(gt=0)] | None = None
    steps: Positive | None = Field(None, description="optimizer steps; instead of epochs")
    batch_size: Positive = Field(16, description="rows per optimizer step; micro-batches are the engine's business")
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-4
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Fraction = Field(0.05, description="share of the steps over which the learning rate rises")
    weight_decay: Fraction = 0.01
    max_length: Annotated[int, Field(ge=8)] = Field(2048, description="tokens; longer rows are truncated")
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    activation_checkpointing: Literal["auto", "on", "off"] = Field("auto", description="auto: where memory asks for it")
    sharding: Literal["auto", "none", "fsdp"] = Field(
        "auto", description="of the model over several processes; auto: of one that is trained in full"
    )
    early_stopping: EarlyStoppingSpec | None = EarlyStoppingSpec()
    eval_every: Positive | None = Field(None, description="steps between evaluations; null: each epoch, at least 4")
    checkpoint_every: Positive = Field(50, description="steps between checkpoints")
    report_to: list[Tracker] = Field([], description="experiment trackers, beside events.jsonl: one name or several")

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("activation_checkpointing", mode="before")
    @classmethod
    def _on_or_off(cls, value: Any) -> Any:
        """YAML reads a bare `on` as true and `off` as false."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _epochs_or_steps(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give `epochs` or `steps`, not both")
        return self

    @property
    def planned_epochs(self) -> float:
        """Epochs to train when `steps` is not given; 3 unless the spec says otherwise."""
        return 3.0 if self.epochs is None else self.epochs


class RunSpec(_Section):
    """Everything a run is made of; `load_spec` reads it from YAML."""

    model: str = Field(description="`embedded`, a folder, or a hub id")
    data: DataSpec
    adapter: AdapterSpec = AdapterSpec()
    objective: ObjectiveSpec = SftSpec()
    training: TrainingSpec = TrainingSpec()
    engine: Literal["tunesmith", "trl"] = Field("tunesmith", description="trl: the same run by TRL, as the reference")
    output: str = Field(description="the run folder")

    @model_validator(mode="after")
    def _adapter_and_objective_fit(self) -> Self:
        kind, adapter = self.objective.kind, self.adapter
        online = isinstance(self.objective, GrpoSpec | PpoSpec | RlhfSpec)
        if isinstance(self.objective, GrpoSpec | PpoSpec):
            rewards, weights = len(rewards_of(self.objective)), self.objective.reward_weights
            if not rewards:
                raise ValueError(
                    "objective.reward is missing: the folder of a reward run, path.py:function or module:function"
                )
            if weights is not None and len(weights) != rewards:
                raise ValueError(f"objective.reward_weights: {len(weights)} for {rewards} rewards; give one for each")
        if self.data.replay is not None and not isinstance(self.objective, SftSpec):
            raise ValueError(f"data.replay is for objective sft: {kind} does not imitate replies; remove it")
        if self.engine == "trl" and isinstance(self.objective, PpoSpec | RlhfSpec):
            raise ValueError(f"engine: trl has no {kind}: TRL has no PPO trainer any more; use engine: tunesmith")
        policy = self.objective.policy if isinstance(self.objective, RlhfSpec) else self.objective
        if isinstance(policy, GrpoSpec | PpoSpec) and policy.vllm_url is not None and (why := self._not_by_vllm):
            raise ValueError(f"objective.vllm_url does not go with {why}; remove it")
        if self.training.sharding == "fsdp" and (why := self._unsharded):
            raise ValueError(
                f"training.sharding: fsdp does not go with {why}; use auto or none: every process then holds the model"
            )
        if self.training.activation_checkpointing == "on" and adapter.kind == "prefix":
            raise ValueError(
                "training.activation_checkpointing: on forgets the keys and values that adapter.kind prefix learns; "
                "use auto or off"
            )
        if online and adapter.rewrites_base:
            raise ValueError(
                f"adapter.init {adapter.init} takes a part of the base's weights, and {kind} needs the base as its "
                "reference at every step; use init: default"
            )
        if isinstance(self.objective, RewardSpec | RlhfSpec) and adapter.kind in ("prefix", "prompt"):
            raise ValueError(
                f"adapter.kind {adapter.kind} cannot carry a reward model: its new head must learn to read the model's "
                "last states, and soft tokens leave those as they are; use lora"
            )
        return self

    @property
    def _not_by_vllm(self) -> str | None:
        """What a vLLM cannot make replies for, and why; None where it can."""
        if self.engine == "trl":
            return "engine: trl (TRL hands on whole weights, to a vLLM that is started for that)"
        if self.adapter.kind == "qlora":
            return "adapter.kind qlora (vLLM's base is not the one in 4 bits that the adapter learns on)"
        if self.adapter.kind != "lora":
            return f"adapter.kind {self.adapter.kind} (a running vLLM takes new weights as a LoRA adapter only)"
        return "adapter.dora (vLLM does not know it)" if self.adapter.dora else None

    @property
    def _unsharded(self) -> str | None:
        """What FSDP cannot be used with, and why; None where it can."""
        if self.adapter.kind not in ("full", "lora"):
            return f"adapter.kind {self.adapter.kind} (only with full and lora)"
        if self.adapter.rewrites_base:
            return f"adapter.init {self.adapter.init} (it splits whole weights)"
        return None


def load_spec(path: Path, overrides: tuple[str, ...] = ()) -> RunSpec:
    """Read and validate the YAML file at `path`, with `key=value` overrides (`training.epochs=1`) applied.

    Relative paths in it are relative to the working directory, as on the command line.
    Raises SpecError naming file, line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path}: cannot read the run spec: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text (byte {error.start}); a run spec is a YAML file") from error
    try:
        document = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(describe_yaml(error, path)) from error
    if not isinstance(values, dict):
        raise SpecError(f"{path}: a run spec is a YAML mapping with the keys {', '.join(RunSpec.model_fields)}")
    for override in overrides:
        _apply_override(values, override)
    return parse_spec(values, name=str(path), document=document)


def parse_spec(values: dict[str, Any], name: str = "spec", document: yaml.Node | None = None) -> RunSpec:
    """Validate `values`; `document` (the composed YAML) lets errors name lines. Raises SpecError."""
    try:
        return RunSpec.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lines = [describe(problem, name, document, RunSpec, OBJECTIVES) for problem in problems[:2]]
        if len(problems) > 2:
            lines[1] += f" (and {len(problems) - 2} more)"
        raise SpecError("\n".join(lines)) from error


def dump_spec(spec: RunSpec) -> str:
    """The spec as YAML, every default written out, in the order of the contract."""
    values = spec.model_dump(mode="json")
    if values["training"]["epochs"] is None and values["training"]["steps"] is None:
        values["training"]["epochs"] = spec.training.planned_epochs
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise SpecError(f"--set {override}: write it as key=value, for example --set training.epochs=1")
    *sections, leaf = key.strip().split(".")
    target = values
    for section in sections:
        child = target.setdefault(section, {})
        if child is None:
            child = target[section] = {}
        if not isinstance(child, dict):
            raise SpecError(f"--set {override}: `{section}` is a value, not a section")
        target = child
    try:
        target[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"--set {override}: the value is not valid YAML") from error
