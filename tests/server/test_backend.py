"""A vLLM behind the server: a stand-in that speaks its wire as its documentation shows it."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tunesmith.models.load import resolve_model
from tunesmith.server.auth import create_key
from tunesmith.server.store import Store

TUNED = "ft:embedded:tester:desk:0a1b2c3d"
ASK = {"messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 4}


@dataclass
class Vllm:
    """What it holds and was asked."""

    url: str = ""
    name: str = "tiny"
    adapters: dict[str, str] = field(default_factory=dict)
    loads: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)
    refuses_adapters: bool = False


def answer(vllm: Vllm, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Status and body; a list is a stream."""
    match path:
        case "/v1/models":
            base = {"id": vllm.name, "object": "model", "root": resolve_model("embedded"), "parent": None}
            return 200, {"object": "list", "data": [base]}
        case "/v1/load_lora_adapter":
            vllm.loads += 1
            if vllm.refuses_adapters:
                return 400, {"object": "error", "message": "LoRA is not enabled", "code": 400}
            if body["lora_name"] in vllm.adapters:
                return 400, {"error": {"message": f"The lora adapter '{body['lora_name']}' has already been loaded."}}
            vllm.adapters[body["lora_name"]] = body["lora_path"]
            return 200, f"Success: LoRA adapter '{body['lora_name']}' added successfully."
        case "/v1/unload_lora_adapter":
            del vllm.adapters[body["lora_name"]]
            return 200, "Success"
    vllm.asked.append(body)
    if body["model"] not in (vllm.name, *vllm.adapters):
        return 404, {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}}
    if body.get("temperature") == 1.5:
        return 400, {"object": "error", "message": "too hot", "type": "BadRequestError", "param": "temperature"}
    said = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"]}
    if not body.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
        return 200, said | {"choices": [choice]}
    deltas = [({"role": "assistant", "content": ""}, None), ({"content": "Hi"}, None), ({}, "stop")]
    return 200, [said | {"choices": [{"index": 0, "delta": delta, "finish_reason": end}]} for delta, end in deltas]


@pytest.fixture
def vllm() -> Iterator[Vllm]:
    state = Vllm()

    class Handler(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, said = answer(state, self.path, json.loads(raw) if raw else {})
            self.send_response(status)
            self.end_headers()
            if isinstance(said, list):
                lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in said]
                self.wfile.write("".join([*lines, "data: [DONE]\n\n"]).encode())
            else:
                self.wfile.write(said.encode() if isinstance(said, str) else json.dumps(said).encode())

        do_GET = do_POST = _respond  # noqa: N815  # http.server's names

        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(make_app: Callable[..., TestClient], store: Store, vllm: Vllm) -> Iterator[TestClient]:
    store.add_model("tester", TUNED, base="embedded", job="ftjob-1")
    with make_app(backend=vllm.url, models={"gpt-4o-mini": "embedded"}) as made:
        yield made


def chat(client: TestClient, model: str = "gpt-4o-mini", **changes: Any) -> Any:
    return client.post("/v1/chat/completions", json={"model": model} | ASK | changes)


def test_a_base_model_is_asked_there_under_its_own_name(client: TestClient, vllm: Vllm) -> None:
    said = chat(client, user="u", temperature=0.5, seed=1).json()
    assert (said["model"], said["choices"][0]["message"]["content"]) == ("gpt-4o-mini", "Hi")
    assert vllm.asked == [ASK | {"model": "tiny", "temperature": 0.5, "seed": 1}]


def test_another_name_after_a_restart_is_learned(client: TestClient, vllm: Vllm) -> None:
    assert chat(client).status_code == 200
    vllm.name = "renamed"
    assert chat(client).status_code == 404
    assert chat(client).status_code == 200


def test_a_stream_passes_through_with_our_name_for_the_model(client: TestClient) -> None:
    lines = chat(client, stream=True).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Hi"
    assert {chunk["model"] for chunk in chunks} == {"gpt-4o-mini"}
    assert lines[-2] == "data: [DONE]"


def test_the_playground_shows_what_it_says(client: TestClient, store: Store) -> None:
    def token(path: str) -> str:
        return str(re.findall(r'name="token" value="(\w+)"', client.get(path).text)[0])

    key = create_key(store, "tester")
    client.post("/dashboard/sign-in", data={"key": key, "token": token("/dashboard/sign-in")})
    asked = {"token": token("/dashboard/playground"), "model": TUNED, "messages": json.dumps(ASK["messages"])}
    lines = client.post("/dashboard/playground/reply", data=asked).text.splitlines()
    first, last = (json.loads(line) for line in lines)
    assert first == {"text": "Hi"}
    assert (last["tokens"], last["finish"]) == (1, "stop")


def test_an_adapter_is_loaded_once_again_after_a_restart_and_gone_with_its_model(
    client: TestClient, vllm: Vllm
) -> None:
    for _ in range(2):
        assert chat(client, TUNED).json()["model"] == TUNED
    assert vllm.loads == 1
    assert vllm.adapters[TUNED].endswith("/jobs/ftjob-1/run/adapter")
    vllm.adapters.clear()
    assert chat(client, TUNED).status_code == 200
    assert vllm.loads == 2
    assert client.delete(f"/v1/models/{TUNED}").json()["deleted"]
    assert vllm.adapters == {}


def test_an_adapter_that_is_there_already_is_used(client: TestClient, vllm: Vllm) -> None:
    vllm.adapters[TUNED] = "from before our restart"
    assert chat(client, TUNED).status_code == 200


def test_its_errors_are_ours(client: TestClient, vllm: Vllm) -> None:
    refused = chat(client, temperature=1.5)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "temperature")
    assert chat(client, messages=[]).json()["error"]["param"] == "messages"  # never sent
    vllm.refuses_adapters = True
    unloaded = chat(client, TUNED)
    assert (unloaded.status_code, unloaded.json()["error"]["code"]) == (503, "backend_refused")
    assert "--enable-lora" in unloaded.json()["error"]["message"]
    assert len(vllm.asked) == 1


def test_one_that_does_not_answer_is_a_503(make_app: Callable[..., TestClient]) -> None:
    with make_app(backend="http://127.0.0.1:1/v1") as client:
        gone = chat(client, "embedded")
    assert (gone.status_code, gone.json()["error"]["code"]) == (503, "backend_unreachable")


def test_a_model_that_it_does_not_serve_generates_here(client: TestClient, vllm: Vllm, store: Store) -> None:
    whole = client.app.state.service.settings.jobs_dir / "ftjob-1" / "run" / "model"  # type: ignore[attr-defined]
    whole.mkdir(parents=True)
    assert chat(client, TUNED).json()["error"]["message"].startswith(f"model {whole}: the folder has no config.json")
    assert vllm.asked == []
