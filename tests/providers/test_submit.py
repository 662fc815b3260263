"""Submitting checks, shows the price, uploads once and starts the job; and nothing leaves before a person says yes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.providers.wire import Wire

from tunesmith.errors import DataError, ProviderError, RunError, SpecError
from tunesmith.providers.state import read_state
from tunesmith.providers.submit import Offer, submit
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec, dump_spec

MakeSpec = Callable[..., RunSpec]


def yes(offer: Offer) -> bool:
    return True


def test_a_job_is_started_with_the_hyperparameters_of_the_spec(make_spec: MakeSpec, openai_wire: Wire) -> None:
    spec = make_spec(training={"epochs": 2, "batch_size": 8, "seed": 7})
    job = submit(spec, openai_wire.url, confirm=yes)
    asked = openai_wire.bodies[-1]
    assert job is not None
    assert (job.id, job.status) == ("ftjob-1", "queued")
    assert asked["model"] == "gpt-4o-mini-2024-07-18"
    assert (asked["training_file"], asked["validation_file"]) == ("file-0", "file-1")
    assert (asked["seed"], asked["suffix"]) == (7, "tickets-a")
    assert asked["method"] == {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}},
    }


def test_the_run_folder_holds_spec_split_and_job_but_no_key(make_spec: MakeSpec, openai_wire: Wire) -> None:
    spec = make_spec()
    submit(spec, openai_wire.url, confirm=yes)
    run = RunFolder(Path(spec.output))
    trained, validated = (file["content"].splitlines() for file in openai_wire.files)
    assert run.spec.read_text() == dump_spec(spec)
    assert run.holdout.read_text().splitlines() == validated
    assert len(trained) + len(validated) == 30
    assert not set(trained) & set(validated)
    assert json.loads(run.events.read_text())["train_rows"] == len(trained)
    assert read_state(run).job.id == "ftjob-1"
    assert not [path for path in run.root.rglob("*") if path.is_file() and b"secret-key" in path.read_bytes()]


def test_nothing_is_uploaded_twice(make_spec: MakeSpec, openai_wire: Wire, tmp_path: Path) -> None:
    submit(make_spec(), openai_wire.url, confirm=yes)
    submit(make_spec(output=str(tmp_path / "again")), openai_wire.url, confirm=yes)
    assert openai_wire.count("POST", "/v1/files") == 2  # the training and the validation file, once each
    assert openai_wire.count("POST", "/v1/fine_tuning/jobs") == 2


def test_nothing_leaves_the_machine_before_the_price_is_accepted(make_spec: MakeSpec, openai_wire: Wire) -> None:
    spec, seen = make_spec(), []
    assert submit(spec, openai_wire.url, confirm=lambda offer: bool(seen.append(offer))) is None
    assert openai_wire.requests == []
    assert not Path(spec.output).exists()
    assert (seen[0].rows + seen[0].validation_rows, seen[0].epochs) == (30, 3)


def test_openai_s_price_is_that_of_the_table_for_all_epochs(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    seen: list[Offer] = []
    submit(make_spec(training={"epochs": 2}), "openai", confirm=lambda offer: bool(seen.append(offer)))
    assert seen[0].usd == pytest.approx(3.0 * seen[0].tokens * 2 / 1e6)
    assert "openai.com" in seen[0].price_source


def test_a_second_job_from_the_same_folder_is_refused(make_spec: MakeSpec, openai_wire: Wire) -> None:
    submit(make_spec(), openai_wire.url, confirm=yes)
    with pytest.raises(RunError, match=r"submitted from here already; watch it with: tunesmith jobs watch"):
        submit(make_spec(), openai_wire.url, confirm=yes)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}, "last message"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]},
            "message 2: an empty",
        ),
        (
            {"messages": [{"role": "user", "content": "a", "weight": 1}, {"role": "assistant", "content": "b"}]},
            "message 1: `weight` belongs to assistant",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]},
            "nothing",
        ),
        ({"text": "just text"}, "plain text"),
    ],
)
def test_a_row_that_breaks_the_provider_s_rules_is_named_before_the_upload(
    make_spec: MakeSpec, openai_wire: Wire, rows: Path, row: dict[str, Any], message: str
) -> None:
    rows.write_text(rows.read_text() + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=rf"tickets\.jsonl:31: .*{message}"):
        submit(make_spec(data={"train": str(rows), "holdout": 0}), openai_wire.url, confirm=yes)
    assert openai_wire.requests == []


def test_too_few_rows_are_refused(make_spec: MakeSpec, openai_wire: Wire, rows: Path) -> None:
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:9]))
    with pytest.raises(DataError, match=r"at least 10 rows and there are 9"):
        submit(make_spec(data={"train": str(rows), "holdout": 0}), openai_wire.url, confirm=yes)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"steps": 5}}, "training.epochs"),
        ({"training": {"epochs": 0.5}}, "training.epochs"),
        ({"data": {"train": "gone.jsonl"}}, r"gone\.jsonl"),
        (
            {"objective": {"kind": "dpo", "loss_type": "ipo"}},
            r"objective\.loss_type ipo: hosted jobs learn by plain dpo",
        ),
        ({"objective": {"kind": "dpo", "sft_weight": 1.0}}, r"objective\.sft_weight 1\.0: hosted jobs"),
        ({"objective": {"kind": "reward"}}, r"objective\.kind reward: hosted jobs learn by sft or dpo"),
    ],
)
def test_what_no_provider_can_do_is_refused_at_once(
    make_spec: MakeSpec, openai_wire: Wire, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises((SpecError, DataError), match=message):
        submit(make_spec(**sections), openai_wire.url, confirm=yes)
    assert openai_wire.requests == []


@pytest.mark.parametrize("name", ["openai", "together"])
def test_a_missing_key_names_its_variable(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(f"{name.upper()}_API_KEY", raising=False)
    with pytest.raises(SpecError, match=f"set {name.upper()}_API_KEY"):
        submit(make_spec(), name, confirm=yes)


@pytest.mark.parametrize("name", ["opnai", "ftp://x/v1", "http://"])
def test_an_unknown_provider_is_refused(make_spec: MakeSpec, name: str) -> None:
    with pytest.raises(SpecError, match=r"give openai, together, or a base URL"):
        submit(make_spec(), name, confirm=yes)


def test_a_key_is_not_sent_unencrypted_to_another_machine(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_API_KEY", "secret-key")
    with pytest.raises(SpecError, match="use https"):
        submit(make_spec(), "http://trainer.example/v1", confirm=yes)


def test_a_refused_key_says_which_variable_to_mend(
    make_spec: MakeSpec, openai_wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_API_KEY", "wrong")
    with pytest.raises(ProviderError, match=r"Incorrect API key.*set TUNESMITH_API_KEY"):
        submit(make_spec(), openai_wire.url, confirm=yes)


def test_a_used_up_quota_says_so_and_leaves_no_job(make_spec: MakeSpec, openai_wire: Wire) -> None:
    said = {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota", "param": None}}
    openai_wire.refusals["POST /v1/fine_tuning/jobs"] = (429, said)
    spec = make_spec()
    with pytest.raises(ProviderError, match=r"quota or credit is used up.*add credit"):
        submit(spec, openai_wire.url, confirm=yes)
    assert not RunFolder(Path(spec.output)).spec.exists()
    openai_wire.refusals.clear()
    assert submit(spec, openai_wire.url, confirm=yes) is not None
    assert openai_wire.count("POST", "/v1/files") == 2


def test_together_gets_the_spec_as_it_is_and_its_own_price_is_shown(make_spec: MakeSpec, together_wire: Wire) -> None:
    spec = make_spec("meta-llama/Llama-3.1-8B", training={"epochs": 2, "learning_rate": 1e-4, "warmup": 0.1})
    seen: list[Offer] = []
    job = submit(spec, "together", confirm=lambda offer: not seen.append(offer))
    asked = together_wire.bodies[-2] if together_wire.requests[-1][0] == "GET" else together_wire.bodies[-1]
    assert job is not None
    assert (job.id, job.status) == ("ft-1", "running")
    assert [offer.usd for offer in seen][-1] == 4.25
    assert "own estimate" in seen[-1].price_source
    assert (asked["n_epochs"], asked["learning_rate"], asked["warmup_ratio"]) == (2, 1e-4, 0.1)
    assert asked["training_type"] == {
        "type": "Lora",
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "lora_trainable_modules": "all-linear",
    }
    assert len(together_wire.files[0]["content"].splitlines()) == seen[0].rows


def test_a_batch_size_beyond_together_s_limits_is_refused(make_spec: MakeSpec, together_wire: Wire) -> None:
    spec = make_spec("meta-llama/Llama-3.1-8B", training={"batch_size": 4})
    with pytest.raises(SpecError, match="batch size of 4"):
        submit(spec, "together", confirm=yes)


def test_credit_that_does_not_cover_together_s_price_stops_before_the_job(
    make_spec: MakeSpec, together_wire: Wire
) -> None:
    estimate = {"estimation_available": True, "estimated_total_price": 400.0, "allowed_to_proceed": False}
    together_wire.refusals["POST /v1/fine-tunes/estimate-price"] = (200, estimate)
    with pytest.raises(ProviderError, match=r"credit does not cover \$400\.00"):
        submit(make_spec("meta-llama/Llama-3.1-8B"), "together", confirm=yes)
    assert together_wire.count("POST", "/v1/fine-tunes") == 0
