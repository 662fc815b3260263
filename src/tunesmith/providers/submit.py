"""`jobs submit`: the run spec, trained at a provider.

In the order of what it costs: the key, the data and the provider's rules, the price, a person's yes; only then does a
byte leave this machine. A file's name carries its checksum and is looked for before it is sent, so nothing is
uploaded twice, from whichever machine. What is asked is written down before it is sent: a submit that is interrupted
finds the job again that it may have started, instead of buying another.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from tunesmith import storage
from tunesmith.dataset.run_rows import RunRows, read_rows
from tunesmith.dataset.write import write
from tunesmith.errors import ProviderError, RunError, SpecError
from tunesmith.planning.typical import range_warnings
from tunesmith.providers.cost import price_of
from tunesmith.providers.data import Method, Prepared, prepare
from tunesmith.providers.find import find_provider
from tunesmith.providers.protocol import Job, JobRequest, Lora, Provider
from tunesmith.providers.state import Begun, ProviderState, begun_file, read_begun, write_begun, write_state
from tunesmith.run_folder import RunFolder
from tunesmith.spec import DpoSpec, RunSpec, SftSpec, dump_spec
from tunesmith.training.event_log import EventLog
from tunesmith.training.events import StartEvent

SUFFIX_LENGTH = 40
"""Together's limit; OpenAI's is 64."""


class Offer(Struct, frozen=True):
    """What is about to be bought; `usd` is None where no price is known, `price_source` says where it is from."""

    provider: str
    model: str
    rows: int
    validation_rows: int
    tokens: int
    epochs: int
    usd: float | None
    price_source: str
    notes: tuple[str, ...]


Confirm = Callable[[Offer], bool]


def submit(spec: RunSpec, provider: str, *, confirm: Confirm) -> Job | None:
    """Start the run of `spec` at `provider` (`openai`, `together` or a URL), and leave its run folder.

    `confirm` is shown the price before anything is uploaded, and the provider's own price where it gives one before
    the start; when it says no, nothing was bought and None is returned. Raises SpecError, DataError, RunError or
    ProviderError.
    """
    run = RunFolder(Path(spec.output))
    _check_folder(run)
    method, epochs, lora = _method(spec), _epochs(spec), _lora(spec)
    place = find_provider(provider)
    rules = place.rules(spec.model)
    rows = read_rows(spec.data, spec.training.seed)
    prepared = prepare(rows.train, rules, method, model=spec.model, minimum=rules.minimum_rows)
    checked = prepare(rows.validation, rules, method, model=spec.model, minimum=1) if rows.validation else None
    price = price_of(spec, provider, prepared.tokens * epochs)
    offer = Offer(
        provider=place.name,
        model=spec.model,
        rows=prepared.rows,
        validation_rows=checked.rows if checked is not None else 0,
        tokens=prepared.tokens,
        epochs=epochs,
        usd=None if price is None else price.training_usd,
        price_source="" if price is None else f"{price.source}, {price.as_of}",
        notes=prepared.notes,
    )
    job, begun = _started_before(run, provider, spec)
    if job is None or begun is None:
        if not confirm(offer):
            return None
        files = (_upload(place, run, prepared), None if checked is None else _upload(place, run, checked))
        begun = Begun(provider, dump_spec(spec), _request(spec, run, method, epochs, lora, files))
        if not _accept_quote(place, begun.request, offer, confirm):
            return None
        write_begun(run, begun)
        job = place.create(begun.request)
    asked = begun.request
    _record(run, spec, ProviderState(provider, job, asked.training_file, asked.validation_file), offer, rows)
    return job


def _started_before(run: RunFolder, provider: str, spec: RunSpec) -> tuple[Job | None, Begun | None]:
    """The job that a submit started which was interrupted before it could write the job down, and its request.

    Raises RunError when the job is there but was asked for in another way.
    """
    begun = read_begun(run)
    job = None if begun is None else find_provider(begun.provider).find_job(begun.request)
    if job is not None and begun is not None and (begun.provider, begun.spec) != (provider, dump_spec(spec)):
        raise RunError(
            f"{run.root}: an interrupted submit has started job {job.id} from here, at another provider or by another "
            f"spec; cancel it with: tunesmith jobs cancel {job.id} --provider {begun.provider}, then remove "
            f"{begun_file(run)}"
        )
    return job, begun


def _request(
    spec: RunSpec, run: RunFolder, method: Method, epochs: int, lora: Lora | None, files: tuple[str, str | None]
) -> JobRequest:
    """What is asked of the provider; `files` are the ids of the training and the validation file."""
    return JobRequest(
        token=secrets.token_hex(16),
        begun=time.time(),
        model=spec.model,
        training_file=files[0],
        validation_file=files[1],
        suffix=_suffix(run),
        seed=spec.training.seed,
        method=method,
        epochs=epochs,
        batch_size=spec.training.batch_size,
        learning_rate=spec.training.learning_rate,
        scheduler=spec.training.scheduler,
        warmup=spec.training.warmup,
        weight_decay=spec.training.weight_decay,
        max_grad_norm=spec.training.max_grad_norm,
        max_length=spec.training.max_length,
        lora=lora,
        beta=getattr(spec.objective, "beta", None) if method == "dpo" else None,
    )


def _check_folder(run: RunFolder) -> None:
    if run.provider.is_file():
        raise RunError(
            f"{run.root}: a job was submitted from here already; watch it with: tunesmith jobs watch {run.root} "
            "(or change `output`)"
        )
    if run.spec.is_file():
        raise SpecError(f"output: {run.root} already holds a run; choose another folder, or remove it")
    storage.must_be_writable(run.root)


def _method(spec: RunSpec) -> Method:
    objective = spec.objective
    if isinstance(objective, DpoSpec):
        plain = DpoSpec()
        for name in ("loss_type", "sft_weight"):
            if (value := getattr(objective, name)) != getattr(plain, name):
                raise SpecError(
                    f"objective.{name} {value}: hosted jobs learn by plain dpo; remove it, or train it here"
                )
        return "dpo"
    if isinstance(objective, SftSpec):
        return "supervised"
    raise SpecError(
        f"objective.kind {objective.kind}: hosted jobs learn by sft or dpo; train others here with: tunesmith train"
    )


def _epochs(spec: RunSpec) -> int:
    epochs = spec.training.planned_epochs
    if spec.training.steps is not None or epochs < 1 or epochs != int(epochs):
        raise SpecError("training.epochs: providers train whole epochs; give training.epochs: 1 or more, and no steps")
    return int(epochs)


def _lora(spec: RunSpec) -> Lora | None:
    kind: str = spec.adapter.kind
    if kind == "full":
        return None
    if kind not in ("lora", "qlora"):
        raise SpecError(f"adapter.kind {kind}: providers train lora (or full); train it here with: tunesmith train")
    targets = spec.adapter.targets
    return Lora(
        spec.adapter.r,
        spec.adapter.alpha,
        spec.adapter.dropout,
        targets if isinstance(targets, str) else tuple(targets),
    )


def _upload(place: Provider, run: RunFolder, prepared: Prepared) -> str:
    """The id of the file at the provider, uploaded if it is not there yet; a copy stays in the run folder."""
    name = f"tunesmith-{hashlib.sha256(prepared.content).hexdigest()[:24]}.jsonl"
    path = run.root / "provider" / name
    storage.write_bytes(path, prepared.content)
    found = place.find_file(name, len(prepared.content))
    return place.upload(path) if found is None else found


def _accept_quote(place: Provider, request: JobRequest, offer: Offer, confirm: Confirm) -> bool:
    quote = place.quote(request)
    if quote is None:
        return True
    if not quote.allowed:
        raise ProviderError(
            f"{place.name}: the account's credit does not cover ${quote.usd:,.2f}; add credit, then submit"
        )
    values = {name: getattr(offer, name) for name in offer.__struct_fields__}
    return confirm(Offer(**{**values, "usd": quote.usd, "price_source": f"{place.name}'s own estimate"}))


def _record(run: RunFolder, spec: RunSpec, state: ProviderState, offer: Offer, rows: RunRows) -> None:
    """Leave the run folder; the job's id first, because it is what could not be found again."""
    write_state(run, state)
    if rows.holdout:
        write(run.holdout, rows.holdout)
    storage.write_text(run.spec, dump_spec(spec))
    steps = -(-offer.rows // spec.training.batch_size) * offer.epochs
    with EventLog(run.events) as log:
        log.record(
            StartEvent(
                step=0,
                total_steps=steps,
                train_rows=offer.rows,
                eval_rows=offer.validation_rows,
                trainable_parameters=0,
                total_parameters=0,
                truncated_rows=0,
                supervised_tokens_lost=0.0,
                model=spec.model,
                precision="not told",
                time=time.time(),
                warnings=range_warnings(spec),
            )
        )
        size = log.size
    write_state(
        run, ProviderState(state.provider, state.job, state.training_file, state.validation_file, events_bytes=size)
    )


def _suffix(run: RunFolder) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", run.root.resolve().name.lower()).strip("-")
    return name[:SUFFIX_LENGTH].strip("-") or "tunesmith"
