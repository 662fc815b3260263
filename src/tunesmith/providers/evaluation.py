"""A hosted model against its base, asked through the provider's chat endpoint: the same metrics and statistics as here.

The base with the best prompt is asked, too, where there is one. An endpoint gives replies and no losses, so the
comparison rests on the replies alone. At most `MAX_REPLIES` rows are asked, which bounds the bill as well as the time.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from tunesmith import storage
from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.formats.openai import write_messages
from tunesmith.dataset.prompting import Examples, asked_by, reference
from tunesmith.dataset.read import load
from tunesmith.errors import DataError, RunError, SpecError
from tunesmith.evaluation.asked_metrics import AskedMetrics
from tunesmith.evaluation.comparison import Systems, confusion
from tunesmith.evaluation.evaluate import Options
from tunesmith.evaluation.evaluated_rows import MAX_REPLIES, choose, held_out, training_rows
from tunesmith.evaluation.metrics import infer_task
from tunesmith.evaluation.prompted import best_prompt
from tunesmith.evaluation.result import Evaluation
from tunesmith.evaluation.said import compare_said, samples, say_if_sampled
from tunesmith.evaluation.verdicts import judge_help, judge_training
from tunesmith.providers.find import find_provider
from tunesmith.providers.protocol import Provider, Turns
from tunesmith.providers.state import read_state
from tunesmith.run_folder import RunFolder
from tunesmith.training.events import read_events

CONCURRENT = 8
"""Requests under way at once; providers limit requests a minute, and the SDKs wait when told to."""


def evaluate_hosted(run: RunFolder, data: str | None = None, options: Options | None = None) -> Evaluation:
    """Compare the run's hosted model with its base, and with the base under the best prompt, on the held-out rows.

    `data` are other rows to ask. The result is also written. Raises RunError when the job has not succeeded or there
    are no rows, DataError, ProviderError, and SpecError for an option that an endpoint cannot serve.
    """
    started = time.monotonic()
    options = options or Options()
    if options.samples != 1 or options.request.harness:
        raise SpecError("--samples and --harness need the model's weights, and this run's model is at a provider")
    state = read_state(run)
    job, spec = state.job, run.load_spec()
    if job.status != "succeeded" or job.tuned_model is None:
        raise RunError(f"{run.root}: the job has not succeeded ({job.status}), so there is no model to evaluate")
    place = find_provider(state.provider)
    path = held_out(run, spec) if data is None else data
    rows = load(path)
    answerable = [index for index, row in enumerate(rows) if reference(row)]
    if not answerable:
        raise DataError(f"{path}: no row has a reply in text to compare with; give other rows by --data")
    recipe = best_prompt(run, options.prompt, options.advice)
    asked_metrics = AskedMetrics(options.request)
    chosen = choose(answerable, MAX_REPLIES)
    asked = [rows[index] for index in chosen]
    references = [reference(row) for row in asked]
    limit = _reply_tokens(references)
    base, tuned = (_ask(place, model, asked, limit) for model in (job.model, job.tuned_model))
    prompted = None
    if recipe is not None:
        find = Examples(training_rows(run, spec) if recipe.examples else ())
        prompts = [asked_by(row, recipe, find(row, recipe.examples)) for row in asked]
        prompted = _ask(place, job.model, prompts, limit)
    replies = Systems(base, tuned, prompted)
    task = infer_task(references)
    metrics, skipped = compare_said(task, asked, replies, asked_metrics, Systems([], []))
    evaluation = Evaluation(
        run=str(run.root),
        data=path,
        rows=len(asked),
        task=task,
        metrics=tuple(say_if_sampled(metric, len(answerable)) for metric in metrics),
        verdicts=(judge_help(metrics[0], None), *judge_training(read_events(run.events))),
        samples=samples(task, rows, chosen, replies),
        seconds=time.monotonic() - started,
        prompt=None if recipe is None else recipe.instruction,
        examples=0 if recipe is None else recipe.examples,
        confusion=confusion(replies, references) if task == "classification" else None,
        skipped=tuple(skipped),
    )
    storage.write_bytes(run.evaluation, msgspec.json.format(msgspec.json.encode(evaluation), indent=2))
    return evaluation


def _ask(place: Provider, model: str, rows: Sequence[Conversation], max_tokens: int) -> list[str]:
    def reply(row: Conversation) -> str:
        asked = [msgspec.structs.replace(turn, weight=None, thinking=None, extra=None) for turn in row.prompt]
        turns: Turns = write_messages(asked)  # OpenAI refuses a field that it does not know
        return place.complete(model, turns, max_tokens=max_tokens)

    with ThreadPoolExecutor(CONCURRENT) as pool:
        return list(pool.map(reply, rows))


def _reply_tokens(references: Sequence[str]) -> int:
    """Room for the longest reference: hardly any text has more than a token for every two characters."""
    return min(512, max(len(reference) for reference in references) // 2 + 16)
