"""Watching ends with the job, survives what networks do, and leaves one record of everything that happened."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from tests.providers.wire import Wire, openai_event, together_event

from tunesmith import api
from tunesmith.errors import ProviderError, RunError, SpecError
from tunesmith.evaluation.evaluate import Options
from tunesmith.evaluation.result import Evaluation
from tunesmith.providers import openai
from tunesmith.providers import watch as module
from tunesmith.providers.download import unpack_adapter
from tunesmith.providers.evaluation import evaluate_hosted
from tunesmith.providers.state import read_state
from tunesmith.providers.submit import submit
from tunesmith.providers.watch import watch
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec

MakeSpec = Callable[..., RunSpec]
LOSSES = [(1, 0.9, 0.8), (2, 0.5, 0.6), (3, 0.3, 0.7)]


@pytest.fixture
def run(make_spec: MakeSpec, openai_wire: Wire) -> RunFolder:
    """A run whose job was submitted to the OpenAI wire."""
    openai_wire.script = ["running", "running", "running", "succeeded"]
    openai_wire.events = [
        openai_event(0, "Created fine-tuning job"),
        *(
            openai_event(step, f"Step {step}", step=step, train_loss=train, full_valid_loss=valid)
            for step, train, valid in LOSSES
        ),
        openai_event(9, "The job has successfully completed"),
    ]
    spec = make_spec()
    submit(spec, openai_wire.url, confirm=lambda offer: True)
    return RunFolder(Path(spec.output))


def recorded(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.events.read_text().splitlines()]


def summary(run: RunFolder) -> list[tuple[Any, ...]]:
    return [(event["event"], event.get("step"), event.get("message")) for event in recorded(run)]


EVERYTHING = [
    ("start", 0, None),
    ("message", None, "Created fine-tuning job"),
    *((kind, step, None) for step in (1, 2, 3) for kind in ("step", "eval")),
    ("message", None, "The job has successfully completed"),
    ("end", 3, None),
]


def test_a_watch_records_every_event_once_and_ends_with_the_job(run: RunFolder) -> None:
    seen: list[Any] = []
    job = watch(run, observer=seen.append, poll_seconds=0)
    assert (job.status, job.tuned_model) == ("succeeded", "ft:gpt-4o-mini-2024-07-18:org:tickets:1")
    assert summary(run) == EVERYTHING
    assert len(seen) == len(EVERYTHING) - 1
    evals = [(event["loss"], event["best"]) for event in recorded(run) if event["event"] == "eval"]
    assert evals == [(0.8, True), (0.6, True), (0.7, False)]
    assert recorded(run)[-1]["best_step"] == 2
    assert (recorded(run)[-1]["reason"], recorded(run)[-1]["seconds"]) == ("finished", 9.0)


def test_a_watch_of_a_job_that_ended_returns_at_once(run: RunFolder, openai_wire: Wire) -> None:
    first = watch(run, poll_seconds=0)
    asked = len(openai_wire.requests)
    assert watch(run, poll_seconds=0) == first
    assert len(openai_wire.requests) == asked
    assert summary(run) == EVERYTHING


def test_an_interrupted_watch_goes_on_without_gap_or_repeat(run: RunFolder) -> None:
    def interrupt(event: Any) -> None:
        if getattr(event, "step", None) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(run, observer=interrupt, poll_seconds=0)
    assert read_state(run).job.status == "running"
    watch(run, poll_seconds=0)
    assert summary(run) == EVERYTHING


def test_a_network_that_drops_mid_watch_is_waited_for(run: RunFolder, openai_wire: Wire) -> None:
    def drop(event: Any) -> None:
        if getattr(event, "step", None) == 1:
            openai_wire.dropped = 3

    watch(run, observer=drop, poll_seconds=0)
    assert openai_wire.dropped == 0
    assert summary(run) == EVERYTHING


def test_a_provider_that_stays_away_ends_the_watch_and_says_how_to_go_on(
    run: RunFolder, openai_wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 2)
    openai_wire.dropped = 100
    with pytest.raises(ProviderError, match=r"cannot reach http.*tunesmith jobs watch"):
        watch(run, poll_seconds=0)
    openai_wire.dropped = 0
    assert watch(run, poll_seconds=0).status == "succeeded"


def test_a_limit_of_requests_is_waited_for_as_long_as_the_provider_says(
    run: RunFolder, openai_wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "RETRIES", 2)
    openai_wire.limited = 2  # the client itself asks again
    watch(run, poll_seconds=0)
    assert openai_wire.limited == 0
    assert summary(run) == EVERYTHING


def test_a_limit_that_lasts_longer_than_the_client_waits_is_waited_for_too(run: RunFolder, openai_wire: Wire) -> None:
    openai_wire.limited = 3
    assert watch(run, poll_seconds=0).status == "succeeded"
    assert summary(run) == EVERYTHING


def test_a_job_from_elsewhere_is_followed_from_its_first_event(run: RunFolder, openai_wire: Wire) -> None:
    seen: list[Any] = []
    job, evaluation = api.watch_job("ftjob-1", provider=openai_wire.url, observer=seen.append, poll_seconds=0)
    assert (job.status, evaluation) == ("succeeded", None)
    told = [msgspec.to_builtins(event) for event in seen]
    assert [(event["event"], event.get("step"), event.get("message")) for event in told] == EVERYTHING[1:]
    assert summary(run) == EVERYTHING[:1]  # what is not of a folder is recorded nowhere


def test_a_job_from_elsewhere_is_cancelled_and_its_files_fetched_by_its_id(openai_wire: Wire, tmp_path: Path) -> None:
    assert api.cancel_job("ftjob-1", provider=openai_wire.url).status == "cancelled"
    with pytest.raises(ProviderError, match="has not succeeded"):
        api.download_job("ftjob-1", provider=openai_wire.url, output=tmp_path)
    openai_wire.script = ["succeeded"]
    (file,) = api.download_job("ftjob-1", provider=openai_wire.url, output=tmp_path / "got")
    assert file.parent == tmp_path / "got"
    with pytest.raises(ProviderError, match="ftjob-9"):
        api.cancel_job("ftjob-9", provider=openai_wire.url)


def test_a_failed_job_is_recorded_with_its_reason(run: RunFolder, openai_wire: Wire) -> None:
    openai_wire.script = ["failed"]
    openai_wire.error = {"code": "invalid_training_file", "message": "The file has 3 duplicate rows.", "param": None}
    job = watch(run, poll_seconds=0)
    assert (job.status, job.error) == ("failed", "The file has 3 duplicate rows.")
    assert recorded(run)[-1]["reason"] == "failed"
    with pytest.raises(RunError, match="has not succeeded"):
        evaluate_hosted(run)


def test_a_folder_without_a_job_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no job was submitted"):
        watch(RunFolder(tmp_path))


def answers(model: str, turns: list[dict[str, str]]) -> str:
    """A tuned model that learned the rows, and a base that always says the same."""
    number = int(turns[0]["content"].split("number ")[1].split()[0]) // 7919
    return ["yes", "no"][number % 2] if model.startswith("ft:") else "perhaps"


def test_the_hosted_model_is_compared_with_its_base_under_the_best_prompt_too(
    run: RunFolder, openai_wire: Wire, tmp_path: Path
) -> None:
    def answers_when_told(model: str, turns: list[dict[str, str]]) -> str:
        """The base knows the answers once it is told how to answer, by the instruction and two examples."""
        told = turns[-1]["content"].startswith("Answer yes or no.") and len(turns) == 5
        return answers("ft:" if told else model, turns[-1:])

    openai_wire.answers = answers_when_told
    watch(run, poll_seconds=0)
    advice = tmp_path / "advice.json"
    unread = dict.fromkeys(("summary", "pitfall", "task", "metric", "model"), "") | {"recommendation": "fine-tune"}
    unread |= dict.fromkeys(("steps", "would_change", "baselines", "alternatives", "notes"), ())
    unread |= dict.fromkeys(("target", "rows", "held_out", "seconds"), 0) | {"needs": {}}
    unread |= dict.fromkeys(("best", "diagnosis", "bits_per_byte", "pair_bits_per_byte", "training"), None)
    best = {"instruction": "Answer yes or no.", "recipe": {"instruction": "Answer yes or no.", "examples": 2}}
    advice.write_text(json.dumps(unread | best))
    evaluation = evaluate_hosted(run, options=Options(advice=str(advice)))
    accuracy = evaluation.metrics[0]
    assert accuracy.prompted is not None
    assert (accuracy.base.value, accuracy.prompted.value, accuracy.tuned.value) == (0.0, 1.0, 1.0)
    assert (evaluation.prompt, evaluation.examples) == ("Answer yes or no.", 2)
    assert "over the prompted base" in evaluation.verdicts[0].evidence
    assert {sample.prompted for sample in evaluation.samples} <= {"yes", "no"}
    assert run.advice.is_file()  # kept, and found without the flag from now on
    assert evaluate_hosted(run).metrics[0].prompted == accuracy.prompted


def test_evaluate_takes_a_hosted_run_with_a_prompt_and_metrics_of_ones_own(
    run: RunFolder, openai_wire: Wire, tmp_path: Path
) -> None:
    openai_wire.answers = answers
    watch(run, poll_seconds=0)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Answer yes or no.")
    evaluation = api.evaluate(run.root, prompt=prompt, metrics=["operator:eq"])
    assert evaluation.prompt == "Answer yes or no."
    assert evaluation.metrics[-1].tuned.value == 1.0
    assert evaluation.confusion is not None
    assert "Answer yes or no." in run.report.read_text()


def test_what_needs_the_weights_is_refused_for_a_hosted_model(run: RunFolder) -> None:
    watch(run, poll_seconds=0)
    with pytest.raises(SpecError, match="--samples and --harness need the model's weights"):
        api.evaluate(run.root, samples=5)


def test_the_hosted_model_is_compared_with_its_base_through_the_endpoint(run: RunFolder, openai_wire: Wire) -> None:
    openai_wire.answers = answers
    job, evaluation = api.watch_job(run.root, poll_seconds=0)
    assert evaluation is not None
    accuracy = evaluation.metrics[0]
    held_out = len(run.holdout.read_text().splitlines())
    assert (evaluation.rows, evaluation.task, accuracy.name) == (held_out, "classification", "accuracy")
    assert (accuracy.base.value, accuracy.tuned.value) == (0.0, 1.0)
    assert "loss" not in evaluation.verdicts[0].evidence
    assert "rose" in evaluation.verdicts[1].finding  # the validation loss of step 3
    assert msgspec.json.decode(run.evaluation.read_bytes(), type=Evaluation) == evaluation
    assert openai_wire.count("POST", "/v1/chat/completions") == 2 * held_out
    assert "perhaps" in run.report.read_text()
    assert f"ask there for `{job.tuned_model}`" in run.card.read_text()


def test_a_job_is_cancelled_and_listed(run: RunFolder, openai_wire: Wire) -> None:
    assert api.cancel_job(run.root).status == "cancelled"
    assert [job.id for job in api.list_jobs(openai_wire.url)] == ["ftjob-1"]


def test_result_files_are_downloaded(run: RunFolder) -> None:
    with pytest.raises(RunError, match="has not succeeded"):
        api.download_job(run.root)
    watch(run, poll_seconds=0)
    assert [path.read_text() for path in api.download_job(run.root)] == ["step,train_loss\n1,0.9\n"]


def test_together_s_events_and_metrics_become_the_run_s(make_spec: MakeSpec, together_wire: Wire) -> None:
    together_wire.script = ["pending", "running", "running", "completed"]
    together_wire.events = [
        together_event(0, "JOB_PENDING", "Fine tune request created"),
        together_event(1, "TRAINING_START", "Training started"),
        together_event(59, "JOB_COMPLETE", "Job finished"),
    ]
    together_wire.metrics = [
        {"train/global_step": 1.0, "train/loss": 0.9, "timestamp": 1721764810.0},
        {"train/global_step": 2.0, "train/loss": 0.5, "timestamp": 1721764820.0},
        {"train/global_step": 2.0, "eval/loss": 0.6, "timestamp": 1721764821.0},
    ]
    spec = make_spec("meta-llama/Llama-3.1-8B")
    submit(spec, "together", confirm=lambda offer: True)
    run = RunFolder(Path(spec.output))
    job = watch(run, poll_seconds=0)
    assert (job.status, job.tuned_model, job.trained_tokens) == ("succeeded", "acme/Llama-3.1-8B-tickets-1", 9000)
    kinds = [event["event"] for event in recorded(run)]
    assert sorted(kinds) == sorted(["start", "message", "message", "message", "step", "step", "eval", "end"])
    assert [event["loss"] for event in recorded(run) if event["event"] == "step"] == [0.9, 0.5]
    assert [event["loss"] for event in recorded(run) if event["event"] == "eval"] == [0.6]


def archive(folder: Path, members: dict[str, bytes]) -> Path:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    path = folder / "adapter.tar.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(packed.getvalue()))
    return path


def test_an_adapter_archive_is_unpacked_without_following_its_paths(tmp_path: Path) -> None:
    members = {
        "out/adapter_config.json": b"{}",
        "out/adapter_model.safetensors": b"weights",
        "../../escape.json": b"{}",
        "out/evil.py": b"import os",
        "out/optimizer.pt": b"pickle",
    }
    assert unpack_adapter(archive(tmp_path, members), tmp_path / "run" / "adapter")
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == [
        "adapter.tar.zst",
        "run/adapter/adapter_config.json",
        "run/adapter/adapter_model.safetensors",
        "run/adapter/escape.json",
    ]


def test_an_archive_without_an_adapter_is_left_packed(tmp_path: Path) -> None:
    assert not unpack_adapter(archive(tmp_path, {"model.bin": b"x"}), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
