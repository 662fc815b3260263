"""The verbs, one function each: the command line, the demo and the report's readers call these and only these.

Every function imports what it needs when it is called, so `import tunesmith` costs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith import cache, storage
from tunesmith.errors import DataError
from tunesmith.imports import heavy_imports
from tunesmith.run_folder import RunFolder, open_run
from tunesmith.settings import first_process
from tunesmith.spec import RunSpec, load_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tunesmith.advice.result import Advice, Needs
    from tunesmith.dataset.conversation import Conversation
    from tunesmith.evaluation.human.results import HumanResults
    from tunesmith.evaluation.result import Evaluation
    from tunesmith.evaluation.talk import Chat
    from tunesmith.planning.plan import Plan
    from tunesmith.providers.protocol import Job
    from tunesmith.providers.submit import Confirm
    from tunesmith.quality.report import CheckReport
    from tunesmith.training.bench import BenchResult
    from tunesmith.training.events import Event
    from tunesmith.training.run import RunResult, TrainObserver
    from tunesmith.training.sweep import SweepResult


def check(
    files: Sequence[str | Path],
    *,
    task: str | None = None,
    model: str | None = None,
    eval_file: str | Path | None = None,
    names: str | None = None,
    profanity: bool = False,
    semantic: str | None = None,
    review_file: str | Path | None = None,
    on: str = "local",
) -> CheckReport:
    """Run the quality checklist over data files; `eval_file` adds the leakage check, `model` the token check.

    `names` is a spaCy pipeline (folder or package) that finds names and places too, `profanity` looks for profane
    words, `semantic` is an embedding model that finds rows saying the same in other
    words, `review_file` receives a random sample of rows for a person to judge;
    `on="ray"` looks at the rows on a Ray cluster.
    Raises DataError when a file cannot be read at all, SpecError for an unknown task, ModelError or
    MissingDependencyError where a model or an extra that was asked for is missing.
    """
    from tunesmith.quality.checklist import check as run_checklist

    return run_checklist(
        files,
        task=task,
        model=model,
        eval_file=eval_file,
        names=names,
        profanity=profanity,
        semantic=semantic,
        review_file=review_file,
        on=on,
    )


def row(file: str | Path, number: int) -> Conversation:
    """The `number`-th readable row of a data file, counted from 1. Raises DataError when there are fewer."""
    from itertools import islice

    from tunesmith.dataset.conversation import Conversation
    from tunesmith.dataset.read import read

    readable = (found for found in read(file) if isinstance(found, Conversation))
    chosen = next(islice(readable, number - 1, None), None)
    if chosen is None:
        raise DataError(f"--row {number}: {file} has fewer readable rows; list its mistakes with: tunesmith data check")
    return chosen


def advise(
    data: str | Path,
    model: str,
    *,
    docs: str | Path | None = None,
    endpoint: str | None = None,
    rows: int = 100,
    target: float | None = None,
    needs: Needs | None = None,
    prices: str | Path | None = None,
    embeddings: str | None = None,
    write: str | Path | None = None,
    tell: Callable[[str], None] = lambda stage: None,
) -> Advice:
    """Measure what prompts, examples and retrieval do for `data` with the base `model`, and say whether to fine-tune.

    `docs` is a document or a folder of them; `endpoint` the base URL of an OpenAI-compatible server that has `model`
    (its key is read from `OPENAI_API_KEY`); `rows` how many held-out rows to measure on; `target` the score that is
    good enough; `needs` what cannot be measured; `prices` a price table of one's own; `embeddings` a model of sentence
    embeddings that searches beside BM25; `write` a file for the advice, which `evaluate` takes or finds as the run's
    `advice.json`. `tell` hears of each stage. Raises DataError, ModelError, SpecError or MissingDependencyError.
    """
    from tunesmith.advice.advise import Asked
    from tunesmith.advice.advise import advise as find_advice
    from tunesmith.advice.embeddings import Embeddings
    from tunesmith.advice.passages import read_passages
    from tunesmith.advice.responders import Endpoint, LocalModel
    from tunesmith.advice.result import Needs
    from tunesmith.dataset.read import load
    from tunesmith.settings import load_settings

    questions = load(data)
    passages = [] if docs is None else read_passages(docs)
    asked = Asked(rows, target, needs or Needs(), None if prices is None else Path(prices))
    meaning = None if embeddings is None else Embeddings(embeddings)
    responder = LocalModel(model) if endpoint is None else Endpoint(endpoint, model, load_settings().api_key)
    advice = find_advice(questions, model, responder, passages=passages, embeddings=meaning, asked=asked, tell=tell)
    if write is not None:
        _keep(Path(write), advice)
    return advice


def plan(
    data: str | Path,
    model: str,
    *,
    gpu: str | None = None,
    gpus: int = 1,
    exact: bool = False,
    prices: str | Path | None = None,
    budget: float | None = None,
    monthly_calls: int | None = None,
    larger: str | None = None,
) -> Plan:
    """Memory per method, cost per provider and hyperparameters for fine-tuning `model` on `data`.

    `gpus` of the `gpu` train together; memory is that of each.
    `exact` also traces a training step on fake tensors, in seconds to minutes; `prices` is a price table of one's own.
    `budget` is in dollars for training; `monthly_calls` and `larger`, a hosted or open model, are for the break-even.
    """
    from tunesmith.dataset.read import load
    from tunesmith.planning.plan import make_plan

    made = make_plan(
        load(data),
        model,
        gpu=gpu,
        gpus=gpus,
        prices=None if prices is None else Path(prices),
        budget=budget,
        monthly_calls=monthly_calls,
        larger=larger,
    )
    if exact:
        from tunesmith.training.memory_trace import with_traced_peaks

        return with_traced_peaks(made)
    return made


def train(
    spec: RunSpec | str | Path,
    *,
    resume: bool = False,
    processes: int = 1,
    on: str = "local",
    workers: int | None = None,
    observer: TrainObserver | None = None,
) -> RunResult:
    """Train as `spec` (a RunSpec or the path of its YAML) says, and leave the report and model card in the run folder.

    The checklist's report and the plan are made first and kept beside the run. `processes` train together on this
    machine; `on` a Ray cluster (`ray`), `workers` do. Under torchrun or `accelerate launch`, each process calls this,
    and the first writes and speaks.
    Raises SpecError, DataError, ModelError, StorageError or TrainingError, each saying how to mend it.
    """
    from tunesmith.training.output import check_output

    if not isinstance(spec, RunSpec):
        spec = load_spec(Path(spec))
    if not first_process():
        return _training()(spec, resume=resume)
    # What can be known without the training libraries is said before the seconds that their import takes.
    check_output(RunFolder(Path(spec.output)), spec, resume=resume)
    findings, expected = _known_before(spec)
    run_training = _training()
    if on == "ray":
        from tunesmith.training.on_ray import train_on_ray

        result = train_on_ray(spec, workers=workers, resume=resume, observer=observer)
    elif processes == 1:
        result = run_training(spec, resume=resume, observer=observer)
    else:
        from tunesmith.training.launch import train_in_processes

        result = train_in_processes(spec, processes, resume=resume, observer=observer)
    run = RunFolder(Path(spec.output))
    storage.write_bytes(run.check, findings)
    storage.write_bytes(run.plan, expected)
    _write_pages(run)
    return result


def sweep(
    spec: RunSpec | str | Path,
    *,
    trials: int = 12,
    tell: Callable[[str], None] = print,
    observer: TrainObserver = lambda event: None,
) -> SweepResult:
    """Train `spec` at several learning rates, epochs and ranks until there are `trials` runs; keep the best of them.

    Choosing is Optuna's, by validation loss, and trials that lag are given up. Everything is in the folder
    `OUTPUT-sweep`, with the response drawn in `sweep.html`: a sweep that was stopped goes on there. `tell` hears of
    each trial's end, `observer` of the events of each trial's run.
    Raises as `train` does, and MissingDependencyError without the extra `sweep`.
    """
    from tunesmith.report.sweep_page import write_sweep_page
    from tunesmith.training.sweep import sweep as run_sweep

    if not isinstance(spec, RunSpec):
        spec = load_spec(Path(spec))
    findings, expected = _known_before(spec)
    result = run_sweep(spec, trials=trials, tell=tell, observer=observer)
    if result.run is not None:
        best = RunFolder(Path(result.run))
        storage.write_bytes(best.check, findings)
        storage.write_bytes(best.plan, expected)
        _write_pages(best)
    write_sweep_page(result, Path(result.page))
    return result


def evaluate(
    run: str | Path,
    *,
    data: str | Path | None = None,
    prompt: str | Path | None = None,
    advice: str | Path | None = None,
    metrics: Sequence[str] = (),
    bertscore: str | None = None,
    judge: str | None = None,
    judge_model: str | None = None,
    run_code: bool = False,
    samples: int = 1,
    harness: Sequence[str] = (),
) -> Evaluation:
    """Compare the tuned model with its base on held-out rows (or on `data`); rewrites the run's report and card.

    `prompt` is a file with a prompt for the base; `advice` what `advise` wrote, whose best way of asking is the prompt
    (by default the run's `advice.json`, where a copy is kept); `metrics` are
    `module:function`s of reply and reference, `bertscore` an encoder, `judge` the base URL of an OpenAI-compatible
    endpoint that serves `judge_model`. `run_code` runs replies against the tests that rows carry, `samples` of each.
    `harness` are general tasks of lm-evaluation-harness, by name or as YAML files. A model at a provider is asked
    through its chat endpoint, base and prompted base too; it has neither losses nor `samples` and `harness`.
    """
    from tunesmith.evaluation.asked_metrics import Request
    from tunesmith.evaluation.evaluate import Options
    from tunesmith.evaluation.evaluate import evaluate as run_evaluation

    folder = RunFolder(Path(run))
    if not folder.is_hosted:
        open_run(run)
    request = Request(tuple(metrics), bertscore, judge, judge_model, run_code, tuple(harness))
    options = Options(
        None if prompt is None else str(prompt), None if advice is None else str(advice), samples, request
    )
    rows = None if data is None else str(data)
    if folder.is_hosted:
        from tunesmith.providers.evaluation import evaluate_hosted

        evaluation = evaluate_hosted(folder, rows, options)
    else:
        evaluation = run_evaluation(folder, rows, options)
    _write_pages(folder)
    return evaluation


def compare(
    run: str | Path,
    *,
    others: Sequence[str | Path] = (),
    export: str | Path | None = None,
    serve: bool = True,
    port: int = 0,
    open_browser: bool = False,
    announce: Callable[[str], None] = print,
) -> HumanResults:
    """Let people judge, blind, the replies of the run's models (and of other runs' tuned models) side by side.

    Serves a page on the loopback interface until Ctrl-C (`announce` is told its address), unless `serve` is off; then
    writes the preferences as pairs for `dpo` to `export`, if given, and returns what the judgements say so far.
    """
    from tunesmith.evaluation.human.duels import make_board
    from tunesmith.evaluation.human.results import summarize
    from tunesmith.evaluation.human.store import Store

    runs = [RunFolder(Path(folder)) for folder in (run, *others)]
    for folder in runs:
        folder.load_spec()
    board = make_board(runs)  # of what the evaluation kept: the models themselves may be at a provider
    store = Store(runs[0].human)
    store.set_aside_outdated(board)
    if serve:
        from tunesmith.evaluation.human.serve import serve as serve_page

        serve_page(str(run), board, store, port=port, open_browser=open_browser, announce=announce)
    if export is not None:
        from tunesmith.evaluation.human.preferences import export_pairs

        export_pairs(Path(export), board, store.judgements())
    return summarize(str(run), board, store.judgements())


def export(
    run: str | Path,
    *,
    to: str = "merged",
    output: str | Path | None = None,
    max_shard_size: str = "5GB",
    outtype: str = "f16",
) -> Path:
    """Turn the run into weights that other programs load, and return their folder (of `gguf`, the file).

    `to` is `merged` (safetensors, the logits checked against base + adapter), `gguf`, `ollama` or `adapter`;
    `outtype` (`f16`, `bf16` or `q8_0`) is the type of a GGUF file's matrices.
    """
    from tunesmith.exporting.targets import export_to

    return export_to(
        open_run(run), to, None if output is None else Path(output), max_shard_size=max_shard_size, outtype=outtype
    )


def chat(run: str | Path) -> Chat:
    """A conversation with the run's model: `.ask(text)`, and `.ask_base()` for what its base would have said."""
    from tunesmith.evaluation.talk import Chat

    return Chat(open_run(run))


def submit_job(spec: RunSpec | str | Path, *, provider: str, confirm: Confirm) -> Job | None:
    """Train `spec` at a hosted provider (`openai`, `together`, or the URL of a server that speaks OpenAI's wire).

    `confirm` is shown the price before anything is uploaded; when it says no, None is returned and nothing was bought.
    The key comes from OPENAI_API_KEY, TOGETHER_API_KEY or TUNESMITH_API_KEY. The checklist's report is kept beside the
    run, as `train` does.
    """
    from tunesmith.providers.submit import submit

    if not isinstance(spec, RunSpec):
        spec = load_spec(Path(spec))
    findings = check([spec.data.train])
    job = submit(spec, provider, confirm=confirm)
    if job is not None:
        _keep(RunFolder(Path(spec.output)).check, findings)
    return job


def watch_job(
    run: str | Path,
    *,
    provider: str | None = None,
    observer: Callable[[Event], None] | None = None,
    poll_seconds: float = 5.0,
) -> tuple[Job, Evaluation | None]:
    """Follow a hosted run's job to its end, then compare the model it made with its base through the endpoint.

    Events go into the run's `events.jsonl`; a watch that was interrupted goes on where it was. The evaluation is None
    when the job did not succeed or no rows were held out. With `provider`, `run` is the id of a job there that was
    submitted elsewhere: it is followed from its first event, and neither recorded nor evaluated.
    """
    from tunesmith.providers.watch import watch, watch_elsewhere

    if provider is not None:
        return watch_elsewhere(provider, str(run), observer=observer, poll_seconds=poll_seconds), None
    folder = RunFolder(Path(run))
    job = watch(folder, observer=observer, poll_seconds=poll_seconds)
    evaluation = None
    if job.status == "succeeded" and (folder.holdout.is_file() or folder.load_spec().data.eval is not None):
        from tunesmith.providers.evaluation import evaluate_hosted

        evaluation = evaluate_hosted(folder)
    _write_pages(folder)
    return job, evaluation


def list_jobs(provider: str) -> list[Job]:
    """The account's jobs at a provider, newest first."""
    from tunesmith.providers.find import find_provider

    return find_provider(provider).jobs()


def cancel_job(run: str | Path, *, provider: str | None = None) -> Job:
    """Stop the job of a hosted run; with `provider`, the job there whose id is `run`."""
    from tunesmith.providers.find import find_provider
    from tunesmith.providers.state import read_state

    if provider is not None:
        return find_provider(provider).cancel(str(run))
    state = read_state(RunFolder(Path(run)))
    return find_provider(state.provider).cancel(state.job.id)


def download_job(run: str | Path, *, provider: str | None = None, output: str | Path | None = None) -> list[Path]:
    """Write what a provider gives out of a finished job into `output`, or the run's `provider/`; returns the files.

    With `provider`, `run` is the id of a job there, and `output` is by default the folder here.
    """
    from tunesmith.providers.download import download, download_elsewhere

    if provider is not None:
        return download_elsewhere(provider, str(run), Path(output or "."))
    return download(RunFolder(Path(run)), None if output is None else Path(output))


def eject(run: str | Path) -> str:
    """The run as the text of a plain TRL/PEFT script; the rows that it reads are written into the run's `trl/`.

    Raises RunError or DataError where TRL has no such run.
    """
    from tunesmith.exporting.eject import eject as write_script

    return write_script(RunFolder(Path(run)))


def report(run: str | Path) -> Path:
    """Write the run's self-contained `report.html` from what its folder holds."""
    from tunesmith.report.html import write_report

    return write_report(RunFolder(Path(run)))


def bench(
    *,
    against: str | None = None,
    cases: Sequence[str] = (),
    steps: int = 2,
    rounds: int = 2,
    observer: Callable[[str], None] | None = None,
) -> BenchResult:
    """Measure training steps on this machine, and beside `against` (`trl`); no `cases` means all of them.

    Raises SpecError for an unknown case or peer, TrainingError when a measurement's process fails.
    """
    from tunesmith.training.bench import CASES
    from tunesmith.training.bench import bench as run_bench

    return run_bench(against=against, cases=cases or tuple(CASES), steps=steps, rounds=rounds, observer=observer)


def _write_pages(run: RunFolder) -> None:
    from tunesmith.exporting.card import write_card
    from tunesmith.report.html import write_report

    write_card(run)
    write_report(run)


def _training() -> Callable[..., RunResult]:
    """`train` of this process, with what it needs."""
    with heavy_imports():
        from tunesmith.training.run import train as run_training
    return run_training


def _known_before(spec: RunSpec) -> tuple[bytes, bytes]:
    """The checklist's report on the training data and the plan, as runs keep them; cached for data seen before."""
    from tunesmith.models.load import resolve_model

    source, model = Path(spec.data.train), Path(resolve_model(spec.model))
    key = None
    if source.is_file() and (model / "tokenizer.json").is_file():
        code = cache.code_digest(("tunesmith.quality", "tunesmith.planning", "tunesmith.dataset"), ("tokenizers",))
        read = (source, *(model / name for name in ("config.json", "tokenizer.json", "chat_template.jinja")))
        contents = [cache.file_digest(file) for file in read if file.is_file()]
        key = cache.digest(code, str(source), spec.model, *contents)
    findings = cache.remembered("check", key, lambda: _encoded(check([spec.data.train])))
    return findings, cache.remembered("plan", key, lambda: _encoded(plan(spec.data.train, spec.model)))


def _keep(path: Path, value: object) -> None:
    storage.write_bytes(path, _encoded(value))


def _encoded(value: object) -> bytes:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=2)
