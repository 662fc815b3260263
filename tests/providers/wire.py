"""Providers on loopback: small HTTP servers that answer as the API references of OpenAI and Together show.

Bodies follow the references' examples, which the official SDKs parse; nothing here knows Tunesmith.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

CREATED = 1721764800


@dataclass
class Wire:
    """What the server holds and was asked; `script` are the states that the job goes through, one per look."""

    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    script: list[str] = field(default_factory=list)
    looks: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    error: dict[str, Any] | None = None
    refusals: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    dropped: int = 0
    limited: int = 0
    page: int = 3
    query: dict[str, str] = field(default_factory=dict)
    answers: Callable[[str, list[dict[str, str]]], str] = lambda model, turns: "?"
    asked: dict[str, Any] = field(default_factory=dict)
    keys: set[str] = field(default_factory=lambda: {"secret-key"})

    def count(self, method: str, path: str) -> int:
        """How often it was asked for a path that matches."""
        return sum(how == method and re.fullmatch(path, what) is not None for how, what in self.requests)

    def status(self) -> str:
        """The job's state now, and one step on in the script."""
        state = self.script[min(self.looks, len(self.script) - 1)]
        self.looks += 1
        return state


Answer = tuple[int, dict[str, str], Any]


@contextmanager
def serve(wire: Wire, answer: Callable[[Wire, str, str, Any], Answer | None]) -> Iterator[Wire]:
    """Run a server that answers with `answer(wire, method, path, body)`: status, headers, body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            path, _, query = self.path.partition("?")
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            wire.requests.append((self.command, path))
            if wire.dropped:
                wire.dropped -= 1
                self.close_connection = True
                self.connection.close()
                return
            if "upload" not in path and self.headers.get("Authorization") not in {f"Bearer {key}" for key in wire.keys}:
                self._send(401, {}, {"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}})
                return
            if wire.limited:
                wire.limited -= 1
                told = {"error": {"message": "Rate limit reached.", "code": "rate_limit_exceeded"}}
                self._send(429, {"Retry-After-Ms": "20", "Retry-After": "1"}, told)
                return
            wire.query = dict(parse_qsl(query))
            for pattern, (status, body) in wire.refusals.items():
                if re.fullmatch(pattern, f"{self.command} {path}"):
                    self._send(status, {}, body)
                    return
            kind = self.headers.get("Content-Type", "")
            body = json.loads(raw) if raw and "json" in kind else raw
            wire.bodies.append(body)
            found = answer(wire, self.command, path, body)
            self._send(*(found or (404, {}, {"error": {"message": f"no such route: {path}", "code": None}})))

        def _send(self, status: int, headers: dict[str, str], body: Any) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _respond  # noqa: N815  # http.server's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    wire.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield wire
    finally:
        server.shutdown()
        server.server_close()


def openai_answer(wire: Wire, method: str, path: str, body: Any) -> Answer | None:
    """OpenAI's wire: https://platform.openai.com/docs/api-reference/fine-tuning."""
    match method, path.removeprefix("/v1"):
        case "GET", "/files":
            return 200, {}, {"object": "list", "data": wire.files, "has_more": False}
        case "POST", "/files":
            name = re.search(rb'filename="([^"]+)"', body)[1].decode()
            content = re.search(rb'filename="[^"]+"\r\n(?:[^\r\n]+\r\n)*\r\n(.*?)\r\n--', body, re.S)[1]
            file = {"id": f"file-{len(wire.files)}", "object": "file", "bytes": len(content), "created_at": CREATED}
            file |= {"filename": name, "purpose": "fine-tune", "status": "processed", "content": content.decode()}
            wire.files.append(file)
            return 200, {}, file
        case "GET", "/files/file-result/content":
            return 200, {}, b"step,train_loss\n1,0.9\n"
        case "POST", "/fine_tuning/jobs":
            wire.asked = body
            return 200, {}, openai_job(wire, "validating_files")
        case "GET", "/fine_tuning/jobs":
            return 200, {}, {"object": "list", "data": [openai_job(wire, wire.script[-1])], "has_more": False}
        case "GET", "/fine_tuning/jobs/ftjob-1":
            return 200, {}, openai_job(wire, wire.status())
        case "POST", "/fine_tuning/jobs/ftjob-1/cancel":
            return 200, {}, openai_job(wire, "cancelled")
        case "GET", "/fine_tuning/jobs/ftjob-1/events":
            shown = wire.events[: 2 * wire.looks][::-1]  # more happens between one look and the next
            after = wire.query.get("after")
            start = 0 if after is None else [event["id"] for event in shown].index(after) + 1
            page = shown[start : start + wire.page]
            return 200, {}, {"object": "list", "data": page, "has_more": start + wire.page < len(shown)}
        case "POST", "/chat/completions":
            message = {"role": "assistant", "content": wire.answers(body["model"], body["messages"])}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return (
                200,
                {},
                {
                    "id": "chatcmpl-1",
                    "object": "chat.completion",
                    "created": CREATED,
                    "model": body["model"],
                    "choices": [choice],
                },
            )
    return None


def openai_job(wire: Wire, status: str) -> dict[str, Any]:
    """A job's object."""
    done = status == "succeeded"
    return {
        "object": "fine_tuning.job",
        "id": "ftjob-1",
        "model": "gpt-4o-mini-2024-07-18",
        "created_at": CREATED,
        "finished_at": CREATED + 60 if done else None,
        "fine_tuned_model": "ft:gpt-4o-mini-2024-07-18:org:tickets:1" if done else None,
        "organization_id": "org-1",
        "result_files": ["file-result"] if done else [],
        "status": status,
        "training_file": "file-0",
        "validation_file": None,
        "hyperparameters": {"n_epochs": 3, "batch_size": 16, "learning_rate_multiplier": 1.8},
        "trained_tokens": 5768 if done else None,
        "error": wire.error or {},
        "seed": 0,
        "estimated_finish": None,
        "integrations": [],
        "metadata": wire.asked.get("metadata"),
    }


def openai_event(number: int, message: str, **data: Any) -> dict[str, Any]:
    """An event's object; with `data`, one of the type `metrics`."""
    return {
        "object": "fine_tuning.job.event",
        "id": f"ftevent-{number}",
        "created_at": CREATED + number,
        "level": "info",
        "message": message,
        "type": "metrics" if data else "message",
        "data": data or None,
    }


def together_answer(wire: Wire, method: str, path: str, body: Any) -> Answer | None:
    """Together's wire: https://docs.together.ai/reference/post-fine-tunes, as its SDK 3.1 speaks it."""
    match method, path.removeprefix("/v1"):
        case "GET", "/files":
            return 200, {}, {"data": wire.files}
        case "POST", "/files":
            fields = (
                dict(re.findall(r'name="(\w+)"\r\n\r\n(.*?)\r\n', body.decode())) if isinstance(body, bytes) else body
            )
            file = {"id": f"file-{len(wire.files)}", "object": "file", "bytes": 0, "created_at": CREATED}
            file |= {"filename": fields["file_name"], "purpose": "fine-tune", "FileType": "jsonl"}
            wire.files.append(file | {"processing_status": "COMPLETED"})
            return 302, {"Location": f"{wire.url}/upload/{file['id']}", "X-Together-File-Id": file["id"]}, b""
        case "PUT", put if put.startswith("/upload/"):
            wire.files[-1] |= {"bytes": len(body), "content": body.decode()}
            return 200, {}, b""
        case "POST", done if done.endswith("/preprocess"):
            return 200, {}, wire.files[-1]
        case "GET", one if re.fullmatch(r"/files/file-\d+", one):
            return 200, {}, wire.files[int(one.rpartition("-")[2])]
        case "GET", "/fine-tunes/models/limits":
            return 200, {}, TOGETHER_LIMITS
        case "POST", "/fine-tunes/estimate-price":
            estimate = {"estimation_available": True, "estimated_total_price": 4.25, "allowed_to_proceed": True}
            return 200, {}, estimate | {"user_limit": 100.0, "estimated_train_token_count": 9000.0}
        case "POST", "/fine-tunes":
            wire.asked = body
            return 200, {}, together_job(wire, "pending")
        case "GET", "/fine-tunes":
            return 200, {}, {"data": [together_job(wire, wire.script[-1])]}
        case "GET", "/fine-tunes/ft-1":
            return 200, {}, together_job(wire, wire.status())
        case "POST", "/fine-tunes/ft-1/cancel":
            return 200, {}, together_job(wire, "cancelled")
        case "GET", "/fine-tunes/ft-1/events":
            return 200, {}, {"data": wire.events[: 2 * wire.looks]}
        case "GET", "/fine-tunes/ft-1/metrics":
            return 200, {}, {"metrics": wire.metrics[: wire.looks]}
        case "POST", "/chat/completions":
            message = {"role": "assistant", "content": wire.answers(body["model"], body["messages"])}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return (
                200,
                {},
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": CREATED,
                    "model": body["model"],
                    "choices": [choice],
                },
            )
    return None


TOGETHER_LIMITS = {
    "model_name": "meta-llama/Llama-3.1-8B",
    "default_gradient_accumulation_steps": 1,
    "max_learning_rate": 0.1,
    "min_learning_rate": 1e-8,
    "max_num_checkpoints": 10,
    "max_num_epochs": 20,
    "max_num_evals": 100,
    "max_seq_length_dpo": 8192,
    "max_seq_length_sft": 16384,
    "min_max_seq_length": 256,
    "merge_output_lora": True,
    "supports_full_training": True,
    "supports_reasoning": False,
    "supports_tools": True,
    "supports_vision": False,
    "lora_training": {
        "max_batch_size": 64,
        "max_batch_size_dpo": 32,
        "max_rank": 64,
        "min_batch_size": 8,
        "target_modules": ["q_proj", "v_proj"],
    },
    "full_training": {"max_batch_size": 64, "max_batch_size_dpo": 32, "min_batch_size": 8},
}


def together_job(wire: Wire, status: str) -> dict[str, Any]:
    """A job's object."""
    return {
        "id": "ft-1",
        "status": status,
        "model": "meta-llama/Llama-3.1-8B",
        "model_output_name": "acme/Llama-3.1-8B-tickets-1",
        "adapter_output_name": None,
        "created_at": "2024-07-23T20:00:00Z",
        "updated_at": "2024-07-23T20:01:00Z",
        "user_id": "u1",
        "token_count": 9000,
        "training_file": "file-0",
        "suffix": wire.asked.get("suffix"),
        "random_seed": wire.asked.get("random_seed"),
        "events": wire.events,
        "n_epochs": 3,
    }


def together_event(number: int, kind: str, message: str) -> dict[str, Any]:
    """An event's object."""
    return {
        "object": "fine-tune-event",
        "created_at": f"2024-07-23T20:00:{number:02}Z",
        "level": "info",
        "message": message,
        "type": kind,
    }
