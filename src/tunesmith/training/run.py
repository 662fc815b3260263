"""`train`: a run spec in, a run folder out.

What can fail is tried in the order of what it costs: the output folder, the tokenizer, the data, the weights. Nothing
is written before all of them are there.
"""

import datetime
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from peft import PeftModel

from tunesmith import storage
from tunesmith.dataset.render import Renderer
from tunesmith.errors import ModelError, RunError, SpecError, StorageError
from tunesmith.models.adapters import ParameterCount, adapter_start, attach, count_parameters, save_adapter
from tunesmith.models.load import load_model, load_tokenizer
from tunesmith.models.quiet import quiet
from tunesmith.planning.typical import range_warnings
from tunesmith.run_folder import RunFolder
from tunesmith.spec import GrpoSpec, PpoSpec, RewardSpec, RlhfSpec, RunSpec, dump_spec, rewards_of
from tunesmith.training import ranks
from tunesmith.training.checkpoint import Checkpoints, Progress, storage_errors
from tunesmith.training.cpu_kernels import kernels_for
from tunesmith.training.data import TrainingData, prepare_data
from tunesmith.training.device_memory import micro_batch_tokens, wants_checkpointing
from tunesmith.training.engine import Engine, make_optimizer
from tunesmith.training.event_log import EventLog
from tunesmith.training.events import EndEvent, Event, StartEvent, read_events
from tunesmith.training.interrupt import polite_interrupts
from tunesmith.training.loop import Reason, run_loop, timetable
from tunesmith.training.objectives.make import learning_module, make_objective, needs_reference
from tunesmith.training.output import check_output, warn_of_other_kernels
from tunesmith.training.precision import use_bf16
from tunesmith.training.reference import with_reference
from tunesmith.training.rewards import open_reward
from tunesmith.training.sharding import give_back, shard, wants_sharding, whole_state
from tunesmith.training.signals import last_signals
from tunesmith.training.trackers import Trackers, must_have_trackers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tunesmith.models.load import Model
    from tunesmith.training.vllm_rollouts import VllmSampler


class TrainObserver(Protocol):
    """Is told each event when it is on the disk: what draws progress."""

    def __call__(self, event: Event, /) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class RunResult:
    """What a run came to. `best_step` is the step whose weights were kept; None when no validation chose one.

    `tokens` and `seconds` are those of all optimizer steps, across resumptions; `warnings` are the spec's values that
    are not usual.
    """

    run: RunFolder
    reason: Reason
    parameters: ParameterCount
    steps: int
    best_step: int | None
    best_loss: float | None
    tokens: int
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        """Training throughput, padding not counted."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def _measure(self) -> tuple[str, float]:
        """What the best step was chosen by, its name and the sign that the recorded loss has of it."""
        rewarded = isinstance(self.run.load_spec().objective, GrpoSpec | PpoSpec | RlhfSpec)
        return ("held-out reward", -1.0) if rewarded else ("validation loss", 1.0)

    def account(self) -> str:
        """What happened, in two lines for people."""
        measure, sign = self._measure
        ended = {
            "finished": "finished",
            "early_stopping": f"stopped early ({measure} no longer improved)",
            "interrupted": "interrupted",
        }[self.reason]
        kept = "the last step" if self.best_step is None else f"step {self.best_step}"
        loss = "" if self.best_loss is None else f", {measure} {sign * self.best_loss:.4f}"
        lines = f"{ended} after {self.steps:,} steps, {self.seconds:.1f} s, {self.tokens_per_second:,.0f} tokens/s"
        if self.reason == "interrupted":
            return f"{lines}\ncheckpoint in {self.run.checkpoints}"
        weights = self.run.model if self.run.model.is_dir() else self.run.adapter
        return f"{lines}\nkept {kept}{loss}: {weights}"


def train(spec: RunSpec, *, resume: bool = False, observer: TrainObserver | None = None) -> RunResult:
    """Train as `spec` says; its output folder then holds the adapter (or model), the events and the checkpoints.

    `resume` goes on from the newest checkpoint, and on a CPU ends bit-identical to a run that was never stopped.
    SIGINT and SIGTERM stop after the step under way, with a checkpoint; `RunResult.reason` then says `interrupted`.
    Where a launcher started several processes (`tunesmith.training.ranks`), each calls this, and the first writes.
    Raises SpecError, DataError, ModelError, RunError, StorageError or TrainingError; up to the first step, none of
    them leaves anything behind.
    """
    run = RunFolder(Path(spec.output))
    ranks.join()
    with ranks.agreeing():
        check_output(run, spec, resume=resume)
        must_have_trackers(spec.training.report_to)
    if spec.engine == "trl":
        from tunesmith.training.trl_engine import train_with_trl

        return train_with_trl(run, spec, resume=resume, observer=observer)
    if isinstance(spec.objective, RlhfSpec):
        return _train_rlhf(run, spec, spec.objective, resume=resume, observer=observer)
    return _train(run, spec, kept=spec, resume=resume, observer=observer)


def _train_rlhf(
    run: RunFolder, spec: RunSpec, rlhf: RlhfSpec, *, resume: bool, observer: TrainObserver | None
) -> RunResult:
    """Two runs: a reward model in the folder `reward`, then the policy that it rewards in the folder itself."""
    stage = run.reward_model
    policy = rlhf.policy.model_copy(update={"reward": str(stage.root)})
    online = spec.model_copy(update={"objective": policy})
    if not ranks.from_main(stage.adapter.is_dir() or stage.model.is_dir()):
        with ranks.agreeing():
            if ranks.is_main():  # a prompt that leaves no room for a reply is told before a reward model is trained
                prepare_data(online, Renderer(load_tokenizer(spec.model)))
        reward = spec.model_copy(update={"objective": rlhf.reward_model, "output": str(stage.root)})
        begun = ranks.from_main(stage.spec.exists())
        result = _train(stage, reward, kept=reward, resume=begun, observer=observer, before=(run.spec, dump_spec(spec)))
        if result.reason == "interrupted":
            return result
    return _train(run, online, kept=spec, resume=resume, observer=observer)


def _train(
    run: RunFolder,
    spec: RunSpec,
    *,
    kept: RunSpec,
    resume: bool,
    observer: TrainObserver | None,
    before: tuple[Path, str] | None = None,
) -> RunResult:
    """One run as `spec` says, `kept` being what its folder says of it; `before` is written just before its start."""
    if isinstance(spec.objective, GrpoSpec | PpoSpec):
        for reward in rewards_of(spec.objective):
            open_reward(reward)
    vllm = _open_vllm(spec)
    tokenizer = load_tokenizer(spec.model)
    with ranks.main_first():
        data = prepare_data(spec, Renderer(tokenizer, today=_started_on(run) if resume else None))
    device = ranks.join()
    bf16 = _use_bf16(spec, device)
    # Fully trained weights stay fp32 under autocast: bf16 has too few bits for an optimizer's small updates.
    full, sharded = spec.adapter.kind == "full", wants_sharding(spec)
    dtype = torch.bfloat16 if bf16 and not full else torch.float32
    torch.manual_seed(spec.training.seed)  # a reward model's head is drawn as it is loaded
    base = load_model(
        spec.model,
        dtype="auto" if full and sharded else dtype,  # as in its files, of which a rank makes only its part fp32
        device="cpu" if sharded else device,
        quantize=spec.adapter.kind == "qlora",
        scalar_head=isinstance(spec.objective, RewardSpec),
    )
    model = attach(base, spec.adapter, seed=spec.training.seed)
    _check_fit(spec, model, data)
    longest = max((*data.train, *data.validation), key=lambda example: max(len(row.tokens) for row in example.rows))
    checkpointing = wants_checkpointing(spec, longest, device=device, bf16=bf16)
    if checkpointing:
        model.activation_checkpointing_enable()
    if sharded:
        shard(model, device, dtype=dtype if full else None, bf16=bf16)
    if needs_reference(spec):
        data = with_reference(data, model, spec.adapter, bf16=bf16)
    if vllm is not None:
        vllm.start(model, max(len(row.tokens) for example in (*data.train, *data.validation) for row in example.rows))
    objective = make_objective(spec, model, tokenizer, vllm)
    give_back(model)
    learning = learning_module(objective, model)
    optimizer = make_optimizer(learning, weight_decay=spec.training.weight_decay)
    checkpoints = Checkpoints(run.checkpoints, learning, optimizer)
    engine = Engine(
        learning,
        objective,
        optimizer,
        device=device,
        bf16=bf16,
        max_grad_norm=spec.training.max_grad_norm,
        seed=spec.training.seed,
        micro_batch_tokens=micro_batch_tokens(spec, longest, device=device, bf16=bf16, checkpointing=checkpointing),
        planned_steps=timetable(spec.training, len(data.train)).total_steps,
    )
    parameters, start = count_parameters(model), adapter_start(model, spec.adapter)
    kernels = kernels_for(device, bf16=bf16)
    progress = _resume(checkpoints, run, data) if resume else None
    if progress is not None and ranks.is_main():
        warn_of_other_kernels(run, kernels)
    if ranks.is_main():
        for path in (run.spec, run.holdout, run.adapter, run.model):
            storage.remove_unfinished(path)
    if progress is None:
        with ranks.agreeing():
            if ranks.is_main():
                _write_start(run, kept, data, before)
        progress = Progress(rows_digest=data.digest)
    with (
        nullcontext() if vllm is None else closing(vllm),
        Trackers(spec, run, observer) as told,
        EventLog(run.events, told, keep_bytes=progress.events_bytes) as log,
        polite_interrupts() as interrupted,
    ):
        log.record(
            StartEvent(
                step=progress.step,
                total_steps=timetable(spec.training, len(data.train)).total_steps,
                train_rows=len(data.train),
                eval_rows=len(data.validation),
                trainable_parameters=parameters.trainable,
                total_parameters=parameters.total,
                truncated_rows=data.truncated_rows,
                supervised_tokens_lost=data.supervised_tokens_lost,
                model=spec.model,
                objective=spec.objective.kind,
                precision="bf16" if bf16 else "fp32",
                kernels=kernels,
                time=time.time(),
                warnings=range_warnings(spec),
            )
        )
        with _resumable(checkpoints):
            progress, reason = run_loop(engine, data, spec.training, log, checkpoints, progress, interrupted)
            if reason != "interrupted":
                _save_trained(run, model, tokenizer, checkpoints, progress, start)
            end = EndEvent(progress.step, reason, progress.best_step, progress.seconds)
            for verdict in last_signals(log.events, end):
                log.record(verdict)
            log.record(end)
    return RunResult(
        run=run,
        reason=reason,
        parameters=parameters,
        steps=progress.step,
        best_step=progress.best_step,
        best_loss=progress.best_loss,
        tokens=progress.tokens,
        seconds=progress.seconds,
        warnings=range_warnings(spec),
    )


@contextmanager
def _resumable(checkpoints: Checkpoints) -> Iterator[None]:
    """When the disk refuses in the middle of a run, say how much of the run is safe."""
    try:
        yield
    except StorageError as error:
        safe = checkpoints.latest()
        kept = "nothing of the run is kept yet" if safe is None else f"the run is whole up to step {safe.step}"
        raise StorageError(f"{error}; {kept}, go on with --resume") from error


def _open_vllm(spec: RunSpec) -> "VllmSampler | None":
    """The vLLM that makes the run's replies, if one does. Raises SpecError when it cannot."""
    online = spec.objective
    if not isinstance(online, GrpoSpec | PpoSpec) or online.vllm_url is None:
        return None
    from tunesmith.training.vllm_rollouts import VllmSampler

    vllm = VllmSampler(spec, online.vllm_url, online.max_completion_length, online.temperature)
    vllm.must_serve()
    return vllm


def _use_bf16(spec: RunSpec, device: torch.device) -> bool:
    return use_bf16(spec.training.precision, spec.model, device)


def _check_fit(spec: RunSpec, model: "Model", data: TrainingData) -> None:
    rows = [row for example in (*data.train, *data.validation) for row in example.rows]
    embedding: Any = model.get_input_embeddings()
    vocabulary = embedding.weight.shape[0]
    largest = max(int(row.tokens.max()) for row in rows)
    if largest >= vocabulary:
        raise ModelError(
            f"model {spec.model}: its tokenizer gives token {largest}, its embedding has {vocabulary}; "
            "give the tokenizer that the model was trained with"
        )
    # Rotary positions go on past the configured length; a learned table of positions does not.
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    longest = max(len(row.tokens) for row in rows)
    if positions and getattr(config, "rope_parameters", None) is None and longest > positions:
        raise SpecError(
            f"training.max_length: rows of {longest:,} tokens, and the model reads {positions:,}; set it to {positions}"
        )


def _started_on(run: RunFolder) -> datetime.date | None:
    """The day on which the run was started: some chat templates write the date, and a resumed run keeps it."""
    first = next(iter(read_events(run.events)), None)
    return datetime.date.fromtimestamp(first.time) if isinstance(first, StartEvent) else None


def _resume(checkpoints: Checkpoints, run: RunFolder, data: TrainingData) -> Progress | None:
    progress = checkpoints.latest()
    if progress is None:
        return None
    if progress.rows_digest != data.digest:
        raise RunError(f"{run.root}: the training data is not what the run was started with; restore it, or start anew")
    checkpoints.restore(progress.step)
    return progress


def _write_start(run: RunFolder, spec: RunSpec, data: TrainingData, before: tuple[Path, str] | None) -> None:
    if before is not None:
        storage.write_text(*before)
    if data.holdout:
        storage.write_bytes(run.holdout, data.holdout)
    storage.write_text(run.spec, dump_spec(spec))


def _save_trained(
    run: RunFolder,
    model: "Model",
    tokenizer: "PreTrainedTokenizerBase",
    checkpoints: Checkpoints,
    progress: Progress,
    start: dict[str, torch.Tensor] | None,
) -> None:
    """Keep the best step's weights (the last one's when nothing was validated)."""
    if progress.best_step is not None and progress.best_step != progress.step:
        checkpoints.restore_parameters(progress.best_step)
    state = whole_state(model)
    with ranks.agreeing():
        if ranks.is_main():
            write_trained(run, model, tokenizer, state, start)


def write_trained(
    run: RunFolder,
    model: "Model",
    tokenizer: "PreTrainedTokenizerBase",
    state: dict[str, torch.Tensor] | None,
    start: dict[str, torch.Tensor] | None,
) -> None:
    """The adapter or the model, with its tokenizer; `state` is that of a model which is not whole in this process."""
    target = run.adapter if isinstance(model, PeftModel) else run.model
    with storage.atomic_folder(target) as folder, storage_errors(target):
        if isinstance(model, PeftModel):
            save_adapter(model, folder, start)
        else:
            with quiet():
                model.save_pretrained(str(folder), state_dict=state)
        tokenizer.save_pretrained(str(folder))  # with its chat template: the one that was trained on
