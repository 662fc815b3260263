"""The official `openai` client, unmodified, against a real server process on loopback."""

import contextlib
import json
import subprocess
import sys
from typing import Literal

import httpx
import openai
import pytest
from openai.types.fine_tuning import FineTuningJob
from pydantic import BaseModel
from running_server import START_SECONDS, RunningServer, ended, ticket_rows, wait_until

from tunesmith.assets import sample

pytestmark = pytest.mark.slow

HELLO = [{"role": "user", "content": "Hello?"}]


def test_a_job_ends_with_a_model_metrics_and_its_account(client: openai.OpenAI, job: FineTuningJob) -> None:
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model
    assert job.fine_tuned_model.startswith("ft:gpt-4o-mini:tester:desk:")
    assert job.trained_tokens
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (2, 8)
    assert job.hyperparameters.learning_rate_multiplier == 1.0
    assert job.seed == 3
    assert job.metadata == {"team": "support"}
    assert job.finished_at
    metrics = client.files.content(job.result_files[0]).text.splitlines()
    assert metrics[0].startswith("step,train_loss,valid_loss")
    assert len(metrics) == 1 + 6
    assert client.files.retrieve(job.result_files[0]).purpose == "fine-tune-results"


def test_events_and_checkpoints_page_through_to_the_end(client: openai.OpenAI, job: FineTuningJob) -> None:
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    assert len({event.id for event in events}) == len(events)
    assert events[0].message == "The job has successfully completed"
    assert events[-1].message == f"Created fine-tuning job: {job.id}"
    assert [event.created_at for event in events] == sorted((e.created_at for e in events), reverse=True)
    assert sum(event.type == "metrics" for event in events) == 6
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert checkpoints[0].step_number == 6
    assert checkpoints[0].metrics.full_valid_loss


def test_the_tuned_model_and_its_base_answer_beside_each_other(client: openai.OpenAI, job: FineTuningJob) -> None:
    assert job.fine_tuned_model in [model.id for model in client.models.list()]
    checkpoint = next(iter(client.fine_tuning.jobs.checkpoints.list(job.id))).fine_tuned_model_checkpoint
    for model in (job.fine_tuned_model, "embedded", checkpoint, job.fine_tuned_model):
        reply = client.chat.completions.create(model=str(model), messages=HELLO, max_tokens=4, temperature=0)
        assert reply.model == model
        assert reply.usage
        assert reply.usage.completion_tokens <= 4


def test_preferences_and_graders_train_too(client: openai.OpenAI) -> None:
    pairs = b"".join(sample("preference").read_bytes().splitlines(keepends=True)[:6])
    files = [client.files.create(file=("t.jsonl", rows), purpose="fine-tune") for rows in (pairs, ticket_rows(6))]
    grader = {
        "type": "string_check",
        "name": "says the label",
        "operation": "ilike",
        "input": "{{sample.output_text}}",
        "reference": "{{item.reference}}",
    }
    few = {"n_epochs": 1, "batch_size": 4}
    made = [
        client.fine_tuning.jobs.create(
            model="embedded",
            training_file=files[0].id,
            method={"type": "dpo", "dpo": {"hyperparameters": few | {"beta": 0.2}}},  # type: ignore[typeddict-item]
        ),
        client.fine_tuning.jobs.create(
            model="embedded",
            training_file=files[1].id,
            method={  # type: ignore[typeddict-item]
                "type": "reinforcement",
                "reinforcement": {"grader": grader, "hyperparameters": few | {"compute_multiplier": 0.25}},
            },
        ),
    ]
    dpo, reinforcement = (wait_until(lambda job=job: ended(client, job.id)) for job in made)
    assert dpo.status == "succeeded", dpo.error
    assert dpo.method.dpo.hyperparameters.beta == 0.2
    assert "rewards/margins" in client.files.content(dpo.result_files[0]).text
    assert reinforcement.status == "succeeded", reinforcement.error
    assert reinforcement.method.reinforcement.grader.reference == "{{item.reference}}"
    assert "reward" in client.files.content(reinforcement.result_files[0]).text.splitlines()[0]


def test_the_older_place_of_hyperparameters_holds_for_each_method(client: openai.OpenAI) -> None:
    file = client.files.create(file=("t.jsonl", ticket_rows(6)), purpose="fine-tune")
    for kind in ("supervised", "dpo"):
        made = client.fine_tuning.jobs.create(
            model="embedded",
            training_file=file.id,
            method={"type": kind},  # type: ignore[typeddict-item]
            hyperparameters={"n_epochs": 7},
        )
        assert getattr(made.method, kind).hyperparameters.n_epochs == 7
        with contextlib.suppress(openai.ConflictError):  # without a rejected reply, DPO has failed already
            client.fine_tuning.jobs.cancel(made.id)


def test_rows_that_the_method_cannot_learn_from_fail_the_job_with_their_line(client: openai.OpenAI) -> None:
    file = client.files.create(file=("plain.jsonl", ticket_rows(3)), purpose="fine-tune")
    made = client.fine_tuning.jobs.create(model="embedded", training_file=file.id, method={"type": "dpo"})
    job = wait_until(lambda: ended(client, made.id))
    assert job.status == "failed"
    assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")
    assert job.error.message.startswith("plain.jsonl:1: no rejected reply")


def test_a_grader_that_names_no_column_fails_the_job(client: openai.OpenAI) -> None:
    file = client.files.create(file=("plain.jsonl", ticket_rows(3)), purpose="fine-tune")
    grader = {"type": "string_check", "name": "g", "operation": "eq", "input": "{{sample.output_text}}"}
    made = client.fine_tuning.jobs.create(
        model="embedded",
        training_file=file.id,
        method={"type": "reinforcement", "reinforcement": {"grader": grader | {"reference": "{{item.answer}}"}}},  # type: ignore[typeddict-item]
    )
    job = wait_until(lambda: ended(client, made.id))
    assert (job.error.code, job.error.param) == ("invalid_grader", "method.reinforcement.grader")


def test_jobs_belong_to_their_owner(server: RunningServer, client: openai.OpenAI, job: FineTuningJob) -> None:
    stranger = server.client("stranger")
    assert list(stranger.fine_tuning.jobs.list()) == []
    for look in (
        lambda: stranger.fine_tuning.jobs.retrieve(job.id),
        lambda: stranger.fine_tuning.jobs.cancel(job.id),
        lambda: stranger.fine_tuning.jobs.list_events(job.id),
        lambda: stranger.files.content(job.training_file),
        lambda: stranger.models.retrieve(str(job.fine_tuned_model)),
        lambda: stranger.models.delete(str(job.fine_tuned_model)),
        lambda: stranger.chat.completions.create(model=str(job.fine_tuned_model), messages=HELLO),
    ):
        with pytest.raises(openai.NotFoundError):
            look()
    assert [one.id for one in client.fine_tuning.jobs.list(metadata={"team": "support"})] == [job.id]


def test_a_job_that_has_ended_can_be_neither_cancelled_nor_paused(client: openai.OpenAI, job: FineTuningJob) -> None:
    for act in (client.fine_tuning.jobs.cancel, client.fine_tuning.jobs.pause, client.fine_tuning.jobs.resume):
        with pytest.raises(openai.ConflictError) as error:
            act(job.id)
        assert error.value.code == "invalid_job_state"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": "nothing"}, "model"),
        ({"training_file": "file-none"}, "training_file"),
        ({"validation_file": "../../etc/passwd"}, "validation_file"),
        ({"suffix": "no/slashes"}, "suffix"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": "lots"}}, "hyperparameters.n_epochs"),
        ({"method": {"type": "magic"}}, "method.type"),
        ({"extra_body": {"surprise": 1}}, "surprise"),
    ],
)
def test_a_job_that_cannot_be_is_refused_with_the_parameter(client: openai.OpenAI, change: dict, param: str) -> None:
    file = client.files.create(file=("train.jsonl", ticket_rows(12)), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError) as error:
        client.fine_tuning.jobs.create(**({"model": "embedded", "training_file": file.id} | change))
    assert error.value.param == param
    client.files.delete(file.id)


def test_files_go_round_and_pages_add_up(server: RunningServer) -> None:
    client = server.client("pager")
    made = [client.files.create(file=(f"{n}.jsonl", ticket_rows(2)), purpose="fine-tune") for n in range(5)]
    assert client.files.content(made[0].id).read() == ticket_rows(2)
    assert client.files.retrieve(made[0].id).bytes == len(ticket_rows(2))
    assert [file.id for file in client.files.list(limit=2)] == [file.id for file in reversed(made)]
    assert [file.id for file in client.files.list(limit=2, order="asc")] == [file.id for file in made]
    assert client.files.delete(made[0].id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(made[0].id)


def test_a_broken_row_is_told_with_its_line_and_column(client: openai.OpenAI) -> None:
    rows = ticket_rows(1) + b'{"messages": [{"role": "usr", "content": "?"}]}\n'
    with pytest.raises(openai.BadRequestError, match=r"my rows.jsonl:2:24: \$.messages\[0\].role") as error:
        client.files.create(file=("../../my rows.jsonl", rows), purpose="fine-tune")
    assert (error.value.param, error.value.code) == ("file", "invalid_training_file")


@pytest.mark.parametrize(("name", "rows"), [("empty.jsonl", b""), ("x.parquet", b"not parquet"), ("x.json", b"[1")])
def test_a_file_that_is_no_data_is_refused(client: openai.OpenAI, name: str, rows: bytes) -> None:
    with pytest.raises(openai.BadRequestError, match=name):
        client.files.create(file=(name, rows), purpose="fine-tune")


def test_the_same_seed_gives_the_same_text_and_n_gives_n_choices(client: openai.OpenAI) -> None:
    ask = {"model": "embedded", "messages": HELLO, "max_tokens": 12, "seed": 11, "n": 3, "temperature": 1.0}
    first, again = (client.chat.completions.create(**ask) for _ in range(2))  # type: ignore[call-overload]
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]


def test_a_stream_says_what_the_whole_reply_says(client: openai.OpenAI) -> None:
    ask = {"model": "embedded", "messages": HELLO, "max_tokens": 16, "temperature": 0, "logprobs": True}
    whole = client.chat.completions.create(**ask)  # type: ignore[call-overload]
    stream = client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})  # type: ignore[call-overload]
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    streamed = [
        token for chunk in chunks[:-1] if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content
    ]
    assert [token.token for token in streamed] == [token.token for token in whole.choices[0].logprobs.content]


def test_logprobs_are_those_of_the_chosen_token_and_its_rivals(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="embedded", messages=HELLO, max_tokens=3, temperature=0, logprobs=True, top_logprobs=3
    )
    assert reply.choices[0].logprobs
    for token in reply.choices[0].logprobs.content or []:
        assert len(token.top_logprobs) == 3
        assert token.logprob == max(rival.logprob for rival in token.top_logprobs)
        assert bytes(token.bytes or []).decode() == token.token


def test_a_stop_sequence_ends_the_reply_and_is_not_part_of_it(client: openai.OpenAI) -> None:
    ask = {"model": "embedded", "messages": HELLO, "max_tokens": 30, "temperature": 0}
    text = client.chat.completions.create(**ask).choices[0].message.content  # type: ignore[call-overload]
    stop = text[3:5]
    reply = client.chat.completions.create(**ask, stop=[stop]).choices[0]  # type: ignore[call-overload]
    assert reply.message.content == text[: text.index(stop)]
    assert reply.finish_reason == "stop"


def test_a_json_object_is_one(client: openai.OpenAI) -> None:
    for seed in range(3):
        reply = client.chat.completions.create(
            model="embedded", messages=HELLO, max_tokens=40, seed=seed, response_format={"type": "json_object"}
        )
        assert isinstance(json.loads(reply.choices[0].message.content or ""), dict)


def test_a_reply_follows_the_schema_that_was_asked_for(client: openai.OpenAI) -> None:
    class Ticket(BaseModel):
        topic: Literal["billing", "delivery"]
        urgent: bool

    for seed in range(3):
        reply = client.chat.completions.parse(
            model="embedded", messages=HELLO, max_tokens=40, seed=seed, response_format=Ticket
        )
        assert isinstance(reply.choices[0].message.parsed, Ticket)


@pytest.mark.parametrize("schema", [{"type": "string"}, {"type": "object", "properties": {"a": {"type": "spell"}}}])
def test_a_schema_that_cannot_be_followed_is_refused(client: openai.OpenAI, schema: dict) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(
            model="embedded",
            messages=HELLO,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        )
    assert error.value.param == "response_format.json_schema.schema"


def test_text_completions_take_several_prompts_and_token_ids(client: openai.OpenAI) -> None:
    ask = {"model": "embedded", "max_tokens": 5, "temperature": 0, "logprobs": 2}
    both = client.completions.create(prompt=["The bear", "A lake"], **ask)  # type: ignore[call-overload]
    alone = client.completions.create(prompt="A lake", **ask)  # type: ignore[call-overload]
    assert both.choices[1].text == alone.choices[0].text
    logprobs = alone.choices[0].logprobs
    assert 1 <= len(logprobs.token_logprobs) == len(logprobs.tokens) == len(logprobs.top_logprobs) <= 5
    streamed = client.completions.create(prompt="A lake", stream=True, **ask)  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].text for chunk in streamed) == alone.choices[0].text
    assert client.completions.create(prompt=[5, 6, 7], **ask).usage.prompt_tokens == 3  # type: ignore[call-overload]


def test_an_echoed_prompt_comes_with_its_own_logprobs(client: openai.OpenAI) -> None:
    ask = {"model": "embedded", "temperature": 0, "logprobs": 1}
    grown = client.completions.create(prompt="The bear", max_tokens=6, **ask).choices[0]  # type: ignore[call-overload]
    whole = client.completions.create(prompt="The bear" + grown.text, max_tokens=0, echo=True, **ask)  # type: ignore[call-overload]
    judged = whole.choices[0].logprobs
    assert whole.choices[0].text == "The bear" + grown.text
    assert "".join(judged.tokens) == whole.choices[0].text
    assert whole.usage.completion_tokens == 0
    assert (judged.token_logprobs[0], judged.top_logprobs[0]) == (None, None)
    assert judged.token_logprobs[-6:] == pytest.approx(grown.logprobs.token_logprobs, abs=1e-4)
    both = client.completions.create(prompt=["The bear", "A lake"], max_tokens=2, echo=True, n=2, model="embedded")
    assert [choice.text.startswith("The bear") for choice in both.choices] == [True, True, False, False]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"echo": True, "stream": True}, "echo"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"stream_options": {}}, "stream_options"),
    ],
)
def test_a_wrong_completion_request_names_the_parameter(client: openai.OpenAI, change: dict, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(**({"model": "embedded", "prompt": "a"} | change))
    assert error.value.param == param


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "?"}]}, "messages[0].role"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "messages"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"stop": ""}, "stop"),
        ({"messages": [1]}, "messages[0]"),
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 2, "max_completion_tokens": 2}, "max_tokens"),
    ],
)
def test_a_wrong_chat_request_names_the_parameter(client: openai.OpenAI, change: dict, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**({"model": "embedded", "messages": HELLO} | change))
    assert error.value.param == param


@pytest.mark.parametrize("edge", [{"temperature": 0}, {"temperature": 1e-45}, {"top_p": 0}])
def test_at_the_edge_the_likeliest_is_said(client: openai.OpenAI, edge: dict) -> None:
    ask = {"model": "embedded", "messages": HELLO, "max_tokens": 8}
    greedy = client.chat.completions.create(**ask, temperature=0)  # type: ignore[call-overload]
    assert client.chat.completions.create(**ask, **edge).choices[0].message == greedy.choices[0].message  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"\xff", b'{"model": "embedded", "messages": [{"role": "user", "content": "\\ud800"}]}']
)
def test_a_body_that_is_no_request_is_the_clients_mistake(server: RunningServer, body: bytes) -> None:
    headers = {"authorization": f"Bearer {server.key('raw')}", "content-type": "application/json"}
    answer = httpx.post(f"{server.url}/v1/chat/completions", headers=headers, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_field_of_an_upload_that_is_not_served_is_refused_by_name(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.files.create(
            file=("a.jsonl", ticket_rows(1)),
            purpose="fine-tune",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
    assert error.value.param == "expires_after"


def test_models_that_are_not_listed_do_not_exist(client: openai.OpenAI, server: RunningServer) -> None:
    for model in ("gpt-9", "../../etc", str(server.data_dir), "meta-llama/Llama-3.1-8B"):
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(model)
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model=model, messages=HELLO)
    with pytest.raises(openai.PermissionDeniedError):
        client.models.delete("embedded")


def test_a_wrong_key_is_refused_and_never_logged(server: RunningServer) -> None:
    wrong = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-ts-0000-very-secret", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as error:
        wrong.models.list()
    assert error.value.request_id
    entries = [json.loads(line) for line in (server.data_dir / "audit.jsonl").read_text().splitlines()]
    assert entries[-1]["action"] == "auth.refused"
    assert "very-secret" not in server.log() + (server.data_dir / "audit.jsonl").read_text()


def test_what_clients_change_is_in_the_audit_log(server: RunningServer, client: openai.OpenAI) -> None:
    file = client.files.create(file=("a.jsonl", ticket_rows(1)), purpose="fine-tune")
    client.files.delete(file.id)
    entries = [json.loads(line) for line in (server.data_dir / "audit.jsonl").read_text().splitlines()]
    assert [entry["action"] for entry in entries if entry.get("object") == file.id] == ["file.create", "file.delete"]
    assert {entry["owner"] for entry in entries if entry.get("object") == file.id} == {"tester"}


def test_a_body_beyond_the_limit_is_refused_whether_or_not_it_says_its_length(server: RunningServer) -> None:
    headers = {"authorization": f"Bearer {server.key('big')}"}
    url = f"{server.url}/v1/chat/completions"
    told = httpx.post(url, headers=headers, content=b" " * (9 * 2**20))
    untold = httpx.post(url, headers=headers, content=(b" " * 2**20 for _ in range(9)))
    assert (told.status_code, untold.status_code) == (413, 413)
    assert untold.json()["error"]["message"]


def test_every_answer_has_its_security_headers_and_errors_have_openais_form(server: RunningServer) -> None:
    for path in ("/healthz", "/v1/models", "/nowhere", "/metrics"):
        answer = httpx.get(server.url + path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-request-id"]
    assert set(httpx.get(f"{server.url}/nowhere").json()["error"]) == {"message", "type", "param", "code"}


def test_the_reference_page_names_every_path_and_needs_nothing_from_elsewhere(server: RunningServer) -> None:
    page = httpx.get(f"{server.url}/docs", timeout=60)
    document = httpx.get(f"{server.url}/openapi.json").json()
    assert all(path in page.text for path in document["paths"])
    assert "max_completion_tokens" in page.text
    assert "<script" not in page.text
    assert "http://" not in page.text.replace(server.url, "")
    assert "style-src 'self'" in page.headers["content-security-policy"]
    assert httpx.get(f"{server.url}/docs/reference.css").headers["content-type"].startswith("text/css")


def test_metrics_count_requests_by_route_and_never_by_id(server: RunningServer, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve("file-secretname")
    text = httpx.get(f"{server.url}/metrics").text
    assert 'tunesmith_requests_total{method="GET",route="/v1/files/{file_id}",status="404"}' in text
    assert "secretname" not in text
    assert 'tunesmith_jobs{status="succeeded"}' in text


def test_a_second_server_on_the_same_data_is_refused(server: RunningServer) -> None:
    program = "from tunesmith.cli.main import main; main()"
    command = [sys.executable, "-c", program, "serve", "--port", "0", "--data-dir", str(server.data_dir)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS)
    assert second.returncode == 2
    assert "another server is running" in second.stderr
