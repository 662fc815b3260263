"""A vLLM to test against: it answers as 0.32.0 did, whose answers were written down."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tunesmith.models.load import resolve_model


@dataclass
class Vllm:
    """What it holds and was asked; what it completes is a subclass's business."""

    url: str = ""
    name: str = "tiny"
    context: int = 1024
    serves: str = "embedded"
    key: str | None = None
    adapters: dict[str, str] = field(default_factory=dict)
    loads: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)
    takes_adapters: bool = True
    max_lora_rank: int = 64
    drops: int = 0  # requests for replies that it closes without an answer

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and body; a list is a stream."""
        raise NotImplementedError

    def load(self, folder: Path) -> None:
        """What it does with an adapter."""

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        match path:
            case "/v1/models":
                base = {"id": self.name, "object": "model", "root": resolve_model(self.serves), "parent": None}
                adapters = [{"id": name, "root": place, "parent": self.name} for name, place in self.adapters.items()]
                return 200, {"object": "list", "data": [base | {"max_model_len": self.context}, *adapters]}
            case "/v1/load_lora_adapter" if self.takes_adapters:
                return self._load(body)
            case "/v1/unload_lora_adapter" if self.takes_adapters:
                del self.adapters[body["lora_name"]]
                return 200, "Success"
            case "/v1/completions":
                self.asked.append(body)
                if body["model"] not in (self.name, *self.adapters):
                    return refusal(404, f"The model `{body['model']}` does not exist.", "NotFoundError")
                return self.complete(body)
        return refusal(404, "Not Found", "Not Found")

    def _load(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.loads += 1
        if body["lora_name"] in self.adapters and not body.get("load_inplace"):
            return refusal(400, f"The lora adapter '{body['lora_name']}' has already been loaded.", "InvalidUserInput")
        folder = Path(body["lora_path"])
        if folder.is_dir() and (rank := json.loads((folder / "adapter_config.json").read_text())["r"]):
            if rank > self.max_lora_rank:
                told = f"LoRA rank {rank} is greater than max_lora_rank {self.max_lora_rank}."
                return refusal(500, told, "InternalServerError")
            self.load(folder)
        self.adapters[body["lora_name"]] = body["lora_path"]
        return 200, f"Success: LoRA adapter '{body['lora_name']}' added successfully."


def refusal(status: int, message: str, kind: str) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": kind, "param": None, "code": status}}


@contextmanager
def serving(vllm: Vllm) -> Iterator[Vllm]:
    """`vllm` behind an address, which it then knows."""

    class Handler(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if vllm.drops and self.path == "/v1/completions":
                vllm.drops -= 1
                vllm.asked.append(json.loads(raw))
                return
            if vllm.key is not None and self.headers.get("Authorization") != f"Bearer {vllm.key}":
                status, said = 401, {"error": "Unauthorized"}
            else:
                status, said = vllm.answer(self.path, json.loads(raw) if raw else {})
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
    vllm.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield vllm
    finally:
        server.shutdown()
        server.server_close()
