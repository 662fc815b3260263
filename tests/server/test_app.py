"""The application without its process: limits and refusals that need no model and no job."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tunesmith.server.api.messages import read_conversation
from tunesmith.server.catalogue import parse_model
from tunesmith.server.store import Store

MakeApp = Callable[..., TestClient]


def test_a_client_beyond_its_rate_is_told_to_wait(make_app: MakeApp) -> None:
    client = make_app(requests_per_minute=3)
    answers = [client.get("/v1/models") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers[:3]] == ["2", "1", "0"]
    assert int(answers[3].headers["retry-after"]) >= 1
    assert answers[3].json()["error"]["code"] == "rate_limit_exceeded"
    assert client.get("/healthz").status_code == 200


def test_guessing_keys_is_limited_by_address(make_app: MakeApp, tmp_path: Path) -> None:
    client = make_app(requests_per_minute=2)
    wrong = {"authorization": "Bearer sk-ts-0-0"}
    assert [client.get("/v1/models", headers=wrong).status_code for _ in range(4)] == [401, 401, 429, 429]
    assert len((tmp_path / "audit.jsonl").read_text().splitlines()) == 2
    assert client.get("/v1/models").status_code == 200


def test_an_upload_beyond_the_limit_leaves_nothing_behind(make_app: MakeApp, tmp_path: Path) -> None:
    client = make_app(max_upload_bytes=1000)
    row = b'{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}\n'
    upload = client.post("/v1/files", files={"file": ("a.jsonl", row * 20)}, data={"purpose": "fine-tune"})
    assert upload.status_code == 413
    assert list((tmp_path / "files").iterdir()) == []


def test_a_refused_upload_leaves_nothing_behind(make_app: MakeApp, tmp_path: Path) -> None:
    client = make_app()
    upload = client.post("/v1/files", files={"file": ("a.jsonl", b"{")}, data={"purpose": "fine-tune"})
    assert upload.status_code == 400
    assert list((tmp_path / "files").iterdir()) == []


def test_the_models_folder_is_all_that_a_model_id_can_reach(make_app: MakeApp, tmp_path: Path) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "models" / "mine" / "config.json").write_text("{}")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "config.json").write_text("{}")
    client = make_app(models_dir=tmp_path / "models")
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["embedded", "mine"]
    for model in ("../secret", "%2e%2e/secret", str(tmp_path / "secret"), "mine/../../secret"):
        assert client.get(f"/v1/models/{model}").status_code in (404, 401)
        body = {"model": model, "messages": [{"role": "user", "content": "?"}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 404


def test_a_database_that_does_not_answer_is_unhealthy(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_app()
    monkeypatch.setattr(Store, "healthy", lambda _self: False)
    assert client.get("/healthz").status_code == 503


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpt-4o-mini=embedded", ("gpt-4o-mini", "embedded")),
        ("meta-llama/Llama-3.1-8B", ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B")),
    ],
)
def test_a_model_is_served_under_the_name_it_is_given(text: str, expected: tuple[str, str]) -> None:
    assert parse_model(text) == expected


@pytest.mark.parametrize(
    "path", ["/v1/files?purpose=%00", "/v1/fine_tuning/jobs?metadata[a]=%00", "/v1/files?after=%00"]
)
def test_the_character_0_which_postgresql_does_not_have_is_refused(make_app: MakeApp, path: str) -> None:
    answer = make_app().get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")


def test_metadata_without_the_character_0_only(make_app: MakeApp) -> None:
    body = {"model": "embedded", "training_file": "file-x", "metadata": {"team": "a\0b"}}
    answer = make_app().post("/v1/fine_tuning/jobs", json=body)
    assert answer.json()["error"]["param"] == "metadata.team"


CALL: dict[str, Any] = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ({"role": "user", "content": "?", "foo": None}, "messages[0].foo", "unknown_parameter"),
        (
            {"role": "user", "content": [{"type": "text", "text": "?", "cache_control": {}}]},
            "messages[0].content[0].cache_control",
            "unknown_parameter",
        ),
        (
            {"role": "assistant", "tool_calls": [CALL | {"status": "done"}]},
            "messages[0].tool_calls[0].status",
            "unknown_parameter",
        ),
        (
            {"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "arguments": "", "output": 1}}]},
            "messages[0].tool_calls[0].function.output",
            "unknown_parameter",
        ),
        (
            {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": "{}"}},
            "messages[0].function_call",
            "unsupported_value",
        ),
    ],
)
def test_a_field_of_a_message_that_nobody_reads_is_refused(
    make_app: MakeApp, message: dict[str, object], param: str, code: str
) -> None:
    answer = make_app().post("/v1/chat/completions", json={"model": "embedded", "messages": [message]})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"], error["code"]) == (
        400,
        "invalid_request_error",
        param,
        code,
    )


def test_a_reply_may_be_sent_back_as_the_sdk_keeps_it() -> None:
    """What `chat.completions.stream` and `parse` of openai 3.57 leave in a message."""
    function = CALL["function"] | {"parsed_arguments": {}}
    kept = {"content": None, "refusal": None, "annotations": None, "audio": None, "function_call": None, "parsed": None}
    reply = kept | {"role": "assistant", "tool_calls": [CALL | {"index": 0, "function": function}]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    conversation = read_conversation([{"role": "user", "content": "?"}, reply, result])
    assert [message.role for message in conversation.messages] == ["user", "assistant", "tool"]
