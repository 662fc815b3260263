"""The plan: what fine-tuning a model on a data set will take, before anything heavy is loaded.

It puts the stages of this folder together and answers first what a person wants first: does it fit, with which
method, and with how large a micro-batch. It runs in well under a second for the model families of `shapes.py`.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.lengths import MICRO_BATCH_TOKENS
from tunesmith.errors import SpecError
from tunesmith.planning.cost import SELF_HOSTED, Cost, costs, load_prices
from tunesmith.planning.data_facts import DataFacts, measure
from tunesmith.planning.figures import compact, dollars, several, size
from tunesmith.planning.gpus import Gpu, find_gpu, known_gpus
from tunesmith.planning.hyperparameters import Hyperparameter, batch_size, derive, lora_rank, max_length
from tunesmith.planning.memory import (
    COMPLETIONS,
    LARGEST_MICRO_BATCH,
    Memory,
    estimate,
    largest_micro_batch,
    rule_of_thumb,
    usable_bytes,
)
from tunesmith.planning.shapes import ModelShape, load_shape
from tunesmith.planning.volume import Volume, plan_volume
from tunesmith.planning.workload import Method, Workload, trainable_parameters
from tunesmith.spec import RunSpec, parse_spec

METHODS: tuple[Method, ...] = ("lora", "qlora", "full")
"""In the order they are recommended: full fine-tuning is rarely necessary."""

OTHER_METHODS: tuple[Method, ...] = ("prefix", "prompt", "dpo", "grpo", "ppo")
"""Compared, and never chosen unasked: they are for other data or other ends."""

METHOD_NAMES: dict[str, str] = {
    "full": "Full fine-tuning",
    "lora": "LoRA",
    "qlora": "QLoRA",
    "prefix": "Prefix tuning",
    "prompt": "Prompt tuning",
    "dpo": "DPO (LoRA)",
    "grpo": "GRPO (LoRA)",
    "ppo": "RLHF, PPO (LoRA)",
}

SHARDED_BASES: tuple[Method, ...] = ("lora", "dpo", "grpo", "ppo")
"""Adapters whose frozen base several GPUs can share (`training.sharding: fsdp`)."""

MOST_GPUS = 1024
"""That a plan is made for, and that are looked through for the fewest that hold a model."""


class MethodPlan(Struct, frozen=True):
    """One method's needs on each of the plan's GPUs: `memory` at its micro-batch, `rule_of_thumb` in GB, of one.

    `trained_share` is that of the parameters in memory that learn, adapter included, as PEFT prints it. `traced_bytes`
    is the peak of a traced step at the same micro-batch, where one was asked for (`plan --exact`) and the method's
    parameters are not sharded. `micro_batch` is the largest that fits the asked-for GPU (0: none; None: no GPU was
    asked for), `checkpointing` whether activations have to be computed again for that, as training then does by itself,
    `sharded` whether its frozen base has to be shared by the GPUs (`training.sharding: fsdp`), and `gpus_needed` how
    few of it hold one row on each (None: more than are looked for, or not asked for). `gpus` are the known ones on
    which at least one row at a time fits as it is.
    """

    method: Method
    trainable_parameters: int
    memory: Memory
    peak_bytes: int
    one_row_bytes: int
    rule_of_thumb: float | None
    micro_batch: int | None
    gpus: tuple[str, ...]
    traced_bytes: int | None = None
    trained_share: float | None = None
    checkpointing: bool = False
    sharded: bool = False
    gpus_needed: int | None = None


class Plan(Struct, frozen=True):
    """Everything `tunesmith plan` says; `answer` is the sentence a person wants first.

    `gpus` train together; `micro_batch` is how many rows of the planned length the engine runs at once on each of them
    when memory allows.
    """

    model: ModelShape
    data: DataFacts
    gpu: str | None
    method: Method
    answer: str
    micro_batch: int
    methods: tuple[MethodPlan, ...]
    hyperparameters: tuple[Hyperparameter, ...]
    total_tokens: int
    total_steps: int
    cost_gpu: str | None
    hours: float | None
    costs: tuple[Cost, ...]
    warnings: tuple[str, ...]
    volume: Volume | None = None
    budget_usd: float | None = None
    work: Workload | None = None
    """What `memory` and `peak_bytes` are of, in the precision of the asked-for GPU."""
    gpus: int = 1


def make_plan(
    rows: Sequence[Conversation],
    model: str,
    gpu: str | None = None,
    *,
    gpus: int = 1,
    task: str | None = None,
    prices: Path | None = None,
    budget: float | None = None,
    monthly_calls: int | None = None,
    larger: str | None = None,
) -> Plan:
    """Plan fine-tuning `model` (`embedded`, a folder or a hub id) on `rows`, on `gpus` of the `gpu` where it is named.

    Several share what full fine-tuning holds (FSDP), and the base of a LoRA adapter where it fits no other way; of the
    other methods each holds everything. Each trains on rows of its own.
    `task` sharpens the judgement of the data's size; `prices` is a price table of the user's own; `budget` is in
    dollars for training; `monthly_calls` and `larger`, the model to compare with, are for `Plan.volume`.
    Raises SpecError, DataError or ModelError, each saying how to mend it.
    """
    if not 1 <= gpus <= MOST_GPUS:
        raise SpecError(f"--gpus {gpus}: a number from 1 to {MOST_GPUS:,}")
    card = None if gpu is None else find_gpu(gpu)
    table = load_prices(prices)
    shape = load_shape(model)
    data = measure(rows, model, task)

    length = min(max_length(data.p99, shape.context), data.longest)  # the engine pads no row beyond the longest
    micro_batch = max(1, min(batch_size(data.rows) // gpus, MICRO_BATCH_TOKENS // length))
    rollouts = batch_size(data.rows) * COMPLETIONS
    rank = lora_rank(data.rows)
    work = Workload(micro_batch, length, data.supervised_share, rank=rank, ranks=gpus, rollouts=rollouts)
    methods = tuple(_method_plan(shape, method, work, card) for method in (*METHODS, *OTHER_METHODS))
    chosen = next((plan for plan in methods[: len(METHODS)] if plan.micro_batch != 0), methods[1])

    values = derive(
        rows=data.rows,
        longest=data.p99,
        context=shape.context,
        parameters=shape.parameters,
        method=chosen.method,
        micro_batch=micro_batch if chosen.micro_batch is None else chosen.micro_batch,
        gpus=gpus,
    )
    epochs = int(_value(values, "training.epochs"))
    tokens = data.tokens * epochs
    cost_gpu = card or _cheapest(chosen)
    found: tuple[Cost, ...] = ()
    if cost_gpu is not None:
        openai_tokens = None if data.openai_tokens is None else data.openai_tokens * epochs
        found = costs(
            table, shape, chosen.method, cost_gpu, tokens, data.median, openai_tokens=openai_tokens, gpus=gpus
        )
    own = next((cost for cost in found if cost.provider == SELF_HOSTED), None)
    own_usd = None if own is None else own.training_usd
    return Plan(
        model=shape,
        data=data,
        gpu=None if card is None else card.name,
        method=chosen.method,
        answer=_answer(shape, methods, chosen, card, work),
        micro_batch=micro_batch,
        methods=methods,
        hyperparameters=values,
        total_tokens=tokens,
        total_steps=-(-data.rows // batch_size(data.rows)) * epochs,
        cost_gpu=None if cost_gpu is None else cost_gpu.name,
        hours=None if own is None else own.hours,
        costs=found,
        warnings=(*_warnings(data, chosen), *_over_budget(found, budget, epochs)),
        volume=plan_volume(shape, data, card, own_usd, larger=larger, monthly_calls=monthly_calls, prices=prices),
        budget_usd=budget,
        work=_on(work, card),
        gpus=gpus,
    )


def plan_to_spec(plan: Plan, data: str, output: str | None = None) -> RunSpec:
    """The run spec that follows the plan, for `data`; `output` defaults to a run named after the data file."""
    name = Path(data).name.split(".")[0] or "run"
    sections: dict[str, dict[str, float | str]] = {"adapter": {"kind": plan.method}, "training": {}}
    if any(method.sharded for method in plan.methods if method.method == plan.method):
        sections["training"]["sharding"] = "fsdp"
    for setting in plan.hyperparameters:
        if setting.key is not None:
            section, key = setting.key.split(".")
            sections[section][key] = setting.value
    return parse_spec(
        {"model": plan.model.name, "data": {"train": data}, **sections, "output": output or f"runs/{name}"}, name="plan"
    )


def _method_plan(shape: ModelShape, method: Method, work: Workload, card: Gpu | None) -> MethodPlan:
    work = _on(work, card)
    micro_batch: int | None = None
    checkpointing = sharded = False
    if card is not None:
        micro_batch, checkpointing, sharded = _largest(shape, method, work, card)
    work = msgspec.structs.replace(work, sharded=sharded)
    memory = estimate(shape, method, work)
    one_row = msgspec.structs.replace(work, rows=1)
    trainable = trainable_parameters(shape, method, work.rank)
    added = 0 if method == "full" else trainable
    return MethodPlan(
        method=method,
        trainable_parameters=trainable,
        trained_share=trainable / (shape.parameters + added),
        memory=memory,
        peak_bytes=memory.total,
        one_row_bytes=estimate(shape, method, one_row).total,
        rule_of_thumb=rule_of_thumb(method, shape.parameters),
        micro_batch=micro_batch,
        checkpointing=checkpointing,
        sharded=sharded,
        gpus_needed=None if card is None else _gpus_needed(shape, method, work, card),
        gpus=tuple(
            gpu.name
            for gpu in known_gpus()
            if estimate(shape, method, _on(one_row, gpu)).total <= usable_bytes(gpu.memory)
        ),
    )


def _largest(shape: ModelShape, method: Method, work: Workload, card: Gpu) -> tuple[int, bool, bool]:
    """The largest micro-batch that fits `card`, and whether only with checkpointing, and with a sharded base.

    Both cost time; checkpointing comes first, as training does that by itself.
    """
    for sharded in (False, True) if method in SHARDED_BASES and work.ranks > 1 else (False,):
        for checkpointing in (False, True) if method != "prefix" else (False,):  # whose keys and values it throws away
            tried = msgspec.structs.replace(work, checkpointing=checkpointing, sharded=sharded)
            if fitting := largest_micro_batch(shape, method, tried, card.memory):
                return fitting, checkpointing, sharded
    return 0, False, False


def _gpus_needed(shape: ModelShape, method: Method, work: Workload, card: Gpu) -> int | None:
    """How few of `card`, a power of two, hold one row on each."""
    count = 1
    while count <= MOST_GPUS:
        if _largest(shape, method, msgspec.structs.replace(work, ranks=count), card)[0]:
            return count
        count *= 2
    return None


def _on(work: Workload, gpu: Gpu | None) -> Workload:
    """The work in the precision that the engine chooses on `gpu`: bf16 where its cores have it."""
    return msgspec.structs.replace(work, precision="bf16" if gpu is None or gpu.bf16 else "fp32")


def _cheapest(chosen: MethodPlan) -> Gpu | None:
    """Of the GPUs that the method fits on and whose price is known, the one that costs least an hour."""
    priced = [(gpu.usd_per_hour, gpu) for gpu in known_gpus() if gpu.name in chosen.gpus and gpu.usd_per_hour]
    return min(priced, key=lambda pair: pair[0])[1] if priced else None


def _answer(
    shape: ModelShape, methods: Sequence[MethodPlan], chosen: MethodPlan, card: Gpu | None, work: Workload
) -> str:
    name, each = METHOD_NAMES[chosen.method], "" if work.ranks == 1 else " on each"
    needs = f"{name} needs about {size(chosen.one_row_bytes)}{each}"
    if card is None:
        smallest = f"it fits on {several(work.ranks, chosen.gpus[0])}" if chosen.gpus else ""
        where = f"{smallest} and larger" if smallest else "no known GPU holds it"
        rows = f"one row of {work.length:,} tokens at a time"
        return f"{needs} for {compact(shape.parameters)} parameters, {rows}; {where}."
    those = several(work.ranks, card.name)
    if chosen.micro_batch == 0:
        mends = [f"choose {several(work.ranks, chosen.gpus[0])} or larger" if chosen.gpus else "choose a smaller model"]
        mends += [f"take {count} of them for {METHOD_NAMES[kind].lower()}" for kind, count in _on_more(methods)[:1]]
        return f"No method fits on {those}: even {needs}; {', or '.join(mends)}."
    more = " or more" if chosen.micro_batch == LARGEST_MICRO_BATCH else ""
    rows = "row" if chosen.micro_batch == 1 else f"rows{more}"
    again = ", activations computed again to save memory" if chosen.checkpointing else ""
    shared = ", the base shared by them (training.sharding: fsdp)" if chosen.sharded else ""
    fitting = f"{chosen.micro_batch} {rows} of {work.length:,} tokens at a time{each}"
    return f"{name} fits on {those}, {fitting}{shared}{again}."


def _on_more(methods: Sequence[MethodPlan]) -> list[tuple[Method, int]]:
    """The methods that fit on more of the asked-for GPU, with how many, fewest first."""
    found = [(plan.method, plan.gpus_needed) for plan in methods if plan.gpus_needed is not None]
    return sorted(found, key=lambda pair: pair[1])


def _warnings(data: DataFacts, chosen: MethodPlan) -> tuple[str, ...]:
    found = []
    if data.rating == "too few":
        found.append(f"{data.rows:,} rows: {data.advice}")
    if chosen.micro_batch == 0:
        found.append("nothing fits on this GPU at one row at a time; shorten the rows, or choose another model or GPU")
    if data.counted_by == "estimate":
        found.append("no tokenizer at hand for this model: tokens are estimated at four characters each")
    return tuple(found)


def _over_budget(found: tuple[Cost, ...], budget: float | None, epochs: int) -> list[str]:
    """What to say where training costs more than there is; nothing when some way to train is within it."""
    known = [cost.training_usd for cost in found if cost.training_usd is not None]
    if budget is None:
        return []
    if budget <= 0:
        raise SpecError(f"--budget {budget:g}: dollars above 0")
    if not known:
        return ["--budget: what training costs is not known; name a --gpu with a price, or give your own --prices"]
    if min(known) <= budget:
        return []
    least = min(known)
    affordable = int(epochs * budget / least)
    mend = f"train {affordable} of {epochs} epochs" if affordable else f"train on {budget / least:.0%} of the tokens"
    return [f"training costs {dollars(least)} at the cheapest, above the budget of ${budget:,.2f}: {mend}"]


def _value(values: tuple[Hyperparameter, ...], key: str) -> float:
    return float(next(setting.value for setting in values if setting.key == key))
