"""A judge behind a real OpenAI-compatible endpoint on this machine."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tunesmith.errors import ModelError
from tunesmith.evaluation.judge import Judge, read_choice

Decide = Callable[[str, str], str]


@pytest.fixture
def endpoint() -> Iterator[Callable[[Decide], str]]:
    """Starts a server whose judge decides on reply A and reply B, and gives its base URL."""
    servers = []

    def start(decide: Decide) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # http.server's name
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                question = asked["messages"][-1]["content"]
                first, second = question.split("### Reply A\n")[1].split("\n\n### Reply B\n")
                answer = decide(first, second)
                status = 500 if answer == "error" else 200
                message = {"role": "assistant", "content": answer}
                body = {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"]}
                body["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
                payload = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


PROMPTS, REFERENCES = ["p"] * 3, ["r"] * 3
OURS, THEIRS = ["good", "same", "bad"], ["bad", "same", "good"]


def by_quality(first: str, second: str) -> str:
    if first == second:
        return "They are equal.\nVerdict: tie"
    return f"One is better.\nVerdict: {'A' if first == 'good' else 'B'}"


def test_the_judge_is_asked_in_both_orders(endpoint: Callable[[Decide], str]) -> None:
    duel = Judge(endpoint(by_quality), "judge").duel(PROMPTS, REFERENCES, OURS, THEIRS)
    assert duel.wins.tolist() == [1.0, 0.5, 0.0]
    assert duel.consistent == 1.0


def test_a_judge_that_only_likes_what_stands_first_decides_nothing(endpoint: Callable[[Decide], str]) -> None:
    duel = Judge(endpoint(lambda first, second: "Verdict: A"), "judge").duel(PROMPTS, REFERENCES, OURS, THEIRS)
    assert duel.wins.tolist() == [0.5, 0.5, 0.5]
    assert duel.consistent == 0.0


def test_an_endpoint_that_fails_is_named(endpoint: Callable[[Decide], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.evaluation.judge.RETRIES", 0)
    url = endpoint(lambda first, second: "error")
    with pytest.raises(ModelError, match=url):
        Judge(url, "judge").duel(PROMPTS, REFERENCES, OURS, THEIRS)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Verdict: A", "first"),
        ("**Verdict:** B", "second"),
        ("Verdict: A is wrong.\nVerdict: tie", "tie"),
        ("I like both.", "tie"),
        ("A verdict: Brilliant", "tie"),
    ],
)
def test_the_last_verdict_counts_and_none_is_a_tie(text: str, choice: str) -> None:
    assert read_choice(text) == choice
