"""A vLLM behind the server."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tunesmith.models.load import load_tokenizer, resolve_model
from tunesmith.server.auth import create_key
from tunesmith.server.language import Language, read_language
from tunesmith.server.replies import GenerationRequest
from tunesmith.server.sampling import Sampling, TokenChoice
from tunesmith.server.store import Store
from tunesmith.server.vllm_wire import Reader
from vllm_stand_in import Vllm, serving

TUNED = "ft:embedded:tester:desk:0a1b2c3d"
ASK = {"messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 8}
SAID = "Goodbye, my name"
END = 0


@cache
def language() -> Language:
    return read_language("embedded", most_context=None)


@cache
def tokens_of(text: str) -> tuple[int, ...]:
    return tuple(load_tokenizer("embedded").encode(text, add_special_tokens=False))


@dataclass
class Saying(Vllm):
    """One that always says the same."""

    says: str = SAID
    stops_after: int = 1000

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        if not body.get("stream"):
            entries = [
                {str(token): {"logprob": -1.0, "rank": 3}, "7": {"logprob": -0.5, "rank": 1}}
                for token in body["prompt"]
            ]
            told = {"index": 0, "text": ".", "prompt_logprobs": [None, *entries[1:]], "token_ids": None}
            return 200, {"choices": [told]}
        said = (*tokens_of(self.says), END)
        chunks = []
        for place, token in enumerate(said[: body["max_tokens"]][: self.stops_after], start=1):
            logprobs = None
            if body.get("logprobs") is not None:
                logprobs = {
                    "text_offset": [0],
                    "token_logprobs": [-1.5],
                    "tokens": [f"token_id:{token}"],
                    "top_logprobs": [{f"token_id:{token}": -1.5, "token_id:16": -0.5}],
                }
            finish = "stop" if token == END else "length" if place == body["max_tokens"] else None
            part = {"text": "…", "logprobs": logprobs, "finish_reason": finish, "token_ids": [token]}
            chunks += [{"id": "cmpl-1", "choices": [{"index": index} | part]} for index in range(body["n"])]
        return 200, chunks


@pytest.fixture
def vllm() -> Iterator[Saying]:
    with serving(Saying()) as made:
        yield made


@pytest.fixture
def client(make_app: Callable[..., TestClient], store: Store, vllm: Saying) -> Iterator[TestClient]:
    store.add_model("tester", TUNED, base="embedded", job="ftjob-1")
    with make_app(backend=vllm.url, models={"gpt-4o-mini": "embedded"}) as made:
        yield made


def chat(client: TestClient, model: str = "gpt-4o-mini", **changes: Any) -> Any:
    return client.post("/v1/chat/completions", json={"model": model} | ASK | changes)


def test_it_is_asked_in_tokens_with_every_setting_said_outright(client: TestClient, vllm: Saying) -> None:
    said = chat(client, user="u", temperature=0.5, seed=2**64 + 1, stop=["x"], logit_bias={"5": -1}).json()
    assert (said["model"], said["choices"][0]["message"]["content"]) == ("gpt-4o-mini", SAID)
    assert (said["usage"]["prompt_tokens"], said["usage"]["completion_tokens"]) == (10, len(tokens_of(SAID)) + 1)
    assert vllm.asked == [
        {
            "model": "tiny",
            "prompt": list(tokens_of("<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n")),
            "max_tokens": 8,
            "n": 1,
            "temperature": 0.5,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": 1,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "logit_bias": {"5": -1.0},
            "stop": ["x"],
            "stop_token_ids": sorted(language().ends),
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "stream": True,
        }
    ]


def test_what_it_would_refuse_is_asked_in_a_form_that_it_takes(client: TestClient, vllm: Saying) -> None:
    greedy = chat(client, temperature=0, n=3).json()
    assert [choice["message"]["content"] for choice in greedy["choices"]] == [SAID] * 3
    assert chat(client, top_p=0).status_code == 200
    assert [(body["n"], body["temperature"], body["top_p"]) for body in vllm.asked] == [(1, 0, 1)] * 2
    assert chat(client, max_tokens=100_000).status_code == 200
    assert vllm.asked[-1]["max_tokens"] == 1024 - 10


def test_its_context_is_the_limit_when_it_is_the_shorter(client: TestClient, vllm: Saying) -> None:
    vllm.context = 8
    error = chat(client).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


def test_text_parts_and_logprobs_are_those_of_our_own_engine(client: TestClient, vllm: Saying) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo?"}]
    told = chat(client, messages=[{"role": "user", "content": parts}], logprobs=True, top_logprobs=1).json()
    assert vllm.asked[0]["prompt"] == list(tokens_of("<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n"))
    first = told["choices"][0]["logprobs"]["content"][0]
    assert (first["token"], first["logprob"], bytes(first["bytes"])) == ("Goodbye", -1.5, b"Goodbye")
    assert [(rival["token"], rival["logprob"]) for rival in first["top_logprobs"]] == [(".", -0.5)]


def test_a_required_call_is_held_to_our_grammar_and_read_here(client: TestClient, vllm: Saying) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    vllm.says = '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>'
    choice = chat(client, tools=[tool], tool_choice="required", max_tokens=60).json()["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": "{}"}
    assert choice["finish_reason"] == "tool_calls"
    assert "%json" in vllm.asked[0]["structured_outputs"]["grammar"]


def test_an_object_ends_where_it_is_whole(client: TestClient, vllm: Saying) -> None:
    vllm.says = '{"a":1} and more'
    choice = chat(client, response_format={"type": "json_object"}, max_tokens=60).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ('{"a":1}', "stop")


def test_an_object_is_closed_before_its_limit(client: TestClient, vllm: Saying) -> None:
    vllm.says = '{"a":"Goodbye, my name is, my name is, my name is, my name is'
    answer = chat(client, response_format={"type": "json_object"}, max_tokens=16, logprobs=True).json()
    assert json.loads(answer["choices"][0]["message"]["content"])["a"].startswith("Goodbye, my name")
    assert answer["choices"][0]["logprobs"]["content"][-1]["logprob"] == -9999.0
    assert answer["usage"]["completion_tokens"] <= 16


def test_a_text_completion_echoes_its_prompt_with_logprobs(client: TestClient, vllm: Saying) -> None:
    ask = {"model": "embedded", "prompt": "The bear", "max_tokens": 0, "echo": True, "logprobs": 1}
    told = client.post("/v1/completions", json=ask).json()
    assert told["choices"][0]["logprobs"]["token_logprobs"] == [None, -1.0]
    assert told["choices"][0]["logprobs"]["top_logprobs"][1] == {"%": -0.5}
    assert told["usage"]["completion_tokens"] == 0
    assert vllm.asked[0]["prompt_logprobs"] == 1


def test_another_name_after_a_restart_is_learned(client: TestClient, vllm: Saying) -> None:
    assert chat(client).status_code == 200
    vllm.name = "renamed"
    assert chat(client).status_code == 200


def test_a_stream_passes_through_with_our_name_for_the_model(client: TestClient) -> None:
    lines = chat(client, stream=True).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == SAID
    assert {chunk["model"] for chunk in chunks} == {"gpt-4o-mini"}
    assert lines[-2] == "data: [DONE]"


def test_one_that_leaves_off_is_an_error_and_no_end(client: TestClient, vllm: Saying) -> None:
    vllm.stops_after = 2
    assert chat(client).json()["error"]["code"] == "backend_unreachable"
    assert "backend_unreachable" in chat(client, stream=True).text


def test_the_playground_shows_what_it_says(client: TestClient, store: Store) -> None:
    def token(path: str) -> str:
        return str(re.findall(r'name="token" value="(\w+)"', client.get(path).text)[0])

    key = create_key(store, "tester")
    client.post("/dashboard/sign-in", data={"key": key, "token": token("/dashboard/sign-in")})
    asked = {"token": token("/dashboard/playground"), "model": TUNED, "messages": json.dumps(ASK["messages"])}
    lines = [json.loads(line) for line in client.post("/dashboard/playground/reply", data=asked).text.splitlines()]
    assert "".join(line.get("text", "") for line in lines) == SAID
    assert (lines[-1]["tokens"], lines[-1]["finish"]) == (len(tokens_of(SAID)) + 1, "stop")


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


def test_an_adapter_that_is_there_already_makes_room_for_ours(client: TestClient, vllm: Saying) -> None:
    vllm.adapters[TUNED] = "from before our restart"
    assert chat(client, TUNED).status_code == 200
    assert vllm.adapters[TUNED].endswith("/jobs/ftjob-1/run/adapter")


def test_one_that_takes_no_adapters_says_how_to_start_it(client: TestClient, vllm: Saying) -> None:
    assert chat(client, messages=[]).json()["error"]["param"] == "messages"  # never sent
    vllm.takes_adapters = False
    unloaded = chat(client, TUNED)
    assert (unloaded.status_code, unloaded.json()["error"]["code"]) == (503, "backend_refused")
    assert "--enable-lora" in unloaded.json()["error"]["message"]
    assert vllm.asked == []


def test_one_that_does_not_answer_is_a_503(make_app: Callable[..., TestClient]) -> None:
    with make_app(backend="http://127.0.0.1:1/v1") as client:
        gone = chat(client, "embedded")
    assert (gone.status_code, gone.json()["error"]["code"]) == (503, "backend_unreachable")


def test_a_model_that_it_does_not_serve_generates_here(client: TestClient, vllm: Saying, store: Store) -> None:
    whole = client.app.state.service.settings.jobs_dir / "ftjob-1" / "run" / "model"  # type: ignore[attr-defined]
    whole.mkdir(parents=True)
    assert chat(client, TUNED).json()["error"]["message"].startswith(f"model {whole}: the folder has no config.json")
    assert vllm.asked == []


def test_a_model_that_it_serves_since_is_asked_there(client: TestClient, vllm: Saying, tmp_path: Path) -> None:
    vllm.serves = str(tmp_path / "other")
    shutil.copytree(resolve_model("embedded"), vllm.serves)
    assert chat(client).status_code == 200
    assert vllm.asked == []
    vllm.serves = "embedded"
    assert chat(client).json()["choices"][0]["message"]["content"] == SAID


def test_the_tokens_of_several_replies_come_in_any_order() -> None:
    reader = Reader(GenerationRequest((5,), 2, Sampling(), choices=2), language())
    parts = [{"index": 1, "token_ids": [16, 16]}, {"index": 0, "token_ids": [16]}, {"index": 1, "token_ids": [16]}]
    pieces = reader.read({"choices": parts})
    assert [(piece.choice, piece.finish) for piece in pieces] == [(1, None), (1, "length"), (0, None)]
    assert not reader.ended
    assert reader.read({"choices": [{"index": 0, "token_ids": [END]}]})[0].token == TokenChoice(END)
    assert reader.ended
