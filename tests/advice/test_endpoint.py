"""Against a server of the OpenAI wire, made of the standard library."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from tests.advice.planted import tickets

from tunesmith.advice.advise import Asked, advise
from tunesmith.advice.responders import Endpoint
from tunesmith.dataset.conversation import Message
from tunesmith.errors import ModelError

ASKED = (Message("system", "Sort."), Message("user", "a shipping ticket"))


class Handler(BaseHTTPRequestHandler):
    """Names the label it finds in the last turn; `newer` refuses the old name of the limit, as newer models do."""

    newer = False
    seen: ClassVar[list[dict[str, object]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        Handler.seen.append(body)
        if body["model"] == "missing":
            self._send(404, {"error": {"message": "no such model"}})
        elif self.headers["authorization"] == "Bearer wrong":
            self._send(401, {"error": {"message": "bad key"}})
        elif Handler.newer and "max_tokens" in body:
            self._send(400, {"error": {"message": "Use 'max_completion_tokens' instead of 'max_tokens'."}})
        elif Handler.newer and body.get("temperature") == 0:
            self._send(400, {"error": {"message": "'temperature' does not support 0"}})
        else:
            said = body["messages"][-1]["content"]
            label = next((name for name in ("billing", "shipping", "returns", "account") if name in said), "none")
            answer = {"index": 0, "message": {"role": "assistant", "content": label}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
            self._send(200, {"id": "1", "object": "chat.completion", "choices": [answer], "usage": usage})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _send(self, status: int, body: object) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.newer, Handler.seen = False, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_replies_come_in_order_with_tokens_and_times(url: str) -> None:
    asked = [(Message("user", f"{name} please"),) for name in ("returns", "billing", "account")]
    replies = Endpoint(url, "any", None).answer(asked, 8)
    assert [reply.text for reply in replies] == ["returns", "billing", "account"]
    assert {(reply.prompt_tokens, reply.reply_tokens) for reply in replies} == {(7, 2)}
    assert all(reply.seconds and reply.seconds > 0 for reply in replies)
    assert Handler.seen[0]["temperature"] == 0


def test_a_newer_model_is_asked_in_its_own_words(url: str) -> None:
    Handler.newer = True
    assert Endpoint(url, "any", None).answer([ASKED], 8)[0].text == "shipping"
    assert Handler.seen[-1]["max_completion_tokens"] == 8


@pytest.mark.parametrize(("model", "key", "said"), [("missing", None, "missing"), ("any", "wrong", "OPENAI_API_KEY")])
def test_a_refusal_is_one_line_that_names_the_endpoint(url: str, model: str, key: str | None, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        Endpoint(url, model, key).answer([ASKED], 8)
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.0)
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:9.*check the URL"):
        Endpoint("http://127.0.0.1:9/v1", "any", None).answer([ASKED], 8)


def test_advice_on_a_hosted_model_prices_its_calls_and_its_training(url: str) -> None:
    advice = advise(tickets(200), "gpt-4o-mini", Endpoint(url, "gpt-4o-mini", None), asked=Asked(rows=30))
    assert advice.recommendation == "stop at prompting"
    assert advice.baselines[0].usd_per_thousand_calls == pytest.approx((7 * 0.15 + 2 * 0.60) / 1000)
    assert advice.training is not None
    assert advice.training.method == "OpenAI's fine-tuning API"
