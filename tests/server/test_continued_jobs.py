"""Jobs that go on from a fine-tuned model, or from one of its checkpoints."""

import fcntl
from pathlib import Path

import msgspec
import openai
import pytest
import torch
from openai.types.fine_tuning import FineTuningJob
from peft import LoraConfig, PeftModel, get_peft_model
from running_server import RunningServer, ended, ticket_rows, wait_until
from test_states import make_job

from tunesmith import storage
from tunesmith.exporting import merge
from tunesmith.models.load import load_model
from tunesmith.server.errors import RequestError
from tunesmith.server.store import Store
from tunesmith.server.trainer import JobFolder, Parent, make_base
from tunesmith.spec import dump_spec, parse_spec

TEXT = "The parcel is broken. billing technical delivery"
BF16 = 0.05
"""Merging rounds the weights once to the dtype of the base."""


def go_on_from(client: openai.OpenAI, model: str, job: FineTuningJob, **hyperparameters: float) -> FineTuningJob:
    made = client.fine_tuning.jobs.create(
        model=model,
        training_file=job.training_file,
        suffix="again",
        method={"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 8} | hyperparameters}},  # type: ignore[typeddict-item]
    )
    assert made.model == model
    return made


def finished(client: openai.OpenAI, job: FineTuningJob) -> str:
    """The model of a job, once it is there."""
    now = wait_until(lambda: ended(client, job.id))
    assert now.status == "succeeded", now.error
    return str(now.fine_tuned_model)


def judged(client: openai.OpenAI, model: str) -> list[float]:
    """The log-probabilities that a model gives to a text's tokens, which tell models apart that say the same."""
    reply = client.completions.create(model=model, prompt=TEXT, echo=True, max_tokens=0, logprobs=0)
    return reply.choices[0].logprobs.token_logprobs[1:]  # type: ignore[union-attr, index, return-value]


@pytest.mark.slow
def test_a_model_is_trained_further_and_outlives_its_parent(client: openai.OpenAI, job: FineTuningJob) -> None:
    child = go_on_from(client, str(job.fine_tuned_model), job, n_epochs=4, learning_rate_multiplier=20)
    model = finished(client, child)
    (checkpoint, *_) = client.fine_tuning.jobs.checkpoints.list(child.id)
    parent = checkpoint.fine_tuned_model_checkpoint
    expected = pytest.approx(judged(client, parent), abs=BF16)
    assert judged(client, "gpt-4o-mini") != expected
    grandchild = go_on_from(client, parent, job, n_epochs=1, learning_rate_multiplier=1e-6)
    with pytest.raises(openai.ConflictError) as error:
        client.models.delete(model)
    assert error.value.code == "model_in_use"
    last = finished(client, grandchild)
    assert client.models.delete(model).deleted
    assert judged(client, last) == expected
    for name in (model, last):
        assert name.startswith("ft:gpt-4o-mini:tester:again:")


@pytest.mark.slow
def test_only_ones_own_models_can_be_trained_further(server: RunningServer, job: FineTuningJob) -> None:
    stranger = server.client("stranger")
    file = stranger.files.create(file=("a.jsonl", ticket_rows(12)), purpose="fine-tune")
    for model in (str(job.fine_tuned_model), f"{job.fine_tuned_model}:ckpt-step-6", "ft:embedded:stranger::00000000"):
        with pytest.raises(openai.BadRequestError) as error:
            stranger.fine_tuning.jobs.create(model=model, training_file=file.id)
        assert (error.value.code, error.value.param) == ("model_not_available", "model")


def test_a_parent_is_kept_until_the_jobs_that_start_from_it_have_ended(store: Store) -> None:
    store.add_model("alice", "ft:a_b", base="embedded", job="ftjob-1")
    store.add_model("alice", "ft:a", base="embedded", job="ftjob-1")
    for model in ("ft:a_b", "ft:a_b:ckpt-step-3"):
        job = make_job(store, model=model)
        with pytest.raises(RequestError) as error:
            store.delete_model("alice", "ft:a_b")
        assert error.value.status == 409
        store.move_job(job.id, "cancelled")
    make_job(store, model="ft:a_b")
    assert store.delete_model("alice", "ft:a")


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """A job's folder before its trainer starts: the embedded model with a random adapter is its parent."""
    made = JobFolder(tmp_path / "job")
    torch.manual_seed(0)
    base = load_model("embedded", dtype=torch.float32)
    get_peft_model(base, LoraConfig(r=2, init_lora_weights=False)).save_pretrained(tmp_path / "adapter")
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(ticket_rows(4))
    values = {"model": str(made.base), "data": {"train": str(rows)}, "output": str(made.run.root)}
    storage.write_text(made.spec, dump_spec(parse_spec(values)))
    storage.write_bytes(made.parent, msgspec.json.encode(Parent("embedded", str(tmp_path / "adapter"))))
    return made


def test_a_merge_that_was_killed_is_begun_anew(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def be_killed(*_: object) -> None:
        raise KeyboardInterrupt

    left = folder.root / ".base.killed"
    left.mkdir()
    with monkeypatch.context() as change:
        change.setattr(merge, "_check", be_killed)
        with pytest.raises(KeyboardInterrupt):
            make_base(folder)
    assert not folder.base.exists()
    make_base(folder)
    assert not left.exists()
    tokens = torch.tensor([[5, 6, 7, 8]])
    parent = PeftModel.from_pretrained(load_model("embedded", dtype=torch.float32), folder.root.parent / "adapter")
    with torch.inference_mode():
        expected = parent.eval()(tokens).logits
        merged = load_model(str(folder.base), dtype=torch.float32)(input_ids=tokens).logits
    assert torch.allclose(merged, expected, atol=BF16)


def test_the_merged_parent_goes_when_nobody_works_on_it(folder: JobFolder) -> None:
    folder.base.mkdir()
    with folder.lock.open("a") as trainer:
        fcntl.flock(trainer, fcntl.LOCK_EX)
        folder.drop_base()
        assert folder.base.is_dir()
    folder.drop_base()
    assert not folder.base.exists()


def test_a_fully_tuned_parent_is_copied(folder: JobFolder, tmp_path: Path) -> None:
    whole = tmp_path / "model"
    whole.mkdir()
    (whole / "config.json").write_text("{}")
    storage.write_bytes(folder.parent, msgspec.json.encode(Parent(str(whole), None)))
    make_base(folder)
    assert (folder.base / "config.json").read_text() == "{}"
