"""A real `tunesmith serve` process on loopback, for tests that use it as its clients do."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
from openai.types.fine_tuning import FineTuningJob

from tunesmith.assets import sample

START_SECONDS = 300
"""A busy machine takes long to import torch; a server that ends is told at once."""


class RunningServer:
    """Starts in the constructor; `kill` is SIGKILL, `stop` is SIGTERM and returns the exit code."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self.data_dir = data_dir
        self._arguments = arguments
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start the process and wait until it answers."""
        command = [sys.executable, "-c", "from tunesmith.cli.main import main; main()"]
        log = (self.data_dir.parent / f"{self.data_dir.name}.log").open("ab")
        self.process = subprocess.Popen(
            [*command, "serve", "--port", str(self.port), "--data-dir", str(self.data_dir), *self._arguments],
            stdout=log,
            stderr=log,
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log()
            try:
                if httpx.get(f"{self.url}/healthz", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise TimeoutError(self.log())

    def log(self) -> str:
        """What the server printed."""
        return (self.data_dir.parent / f"{self.data_dir.name}.log").read_text()

    def key(self, owner: str) -> str:
        """A new API key."""
        program = "from tunesmith.cli.main import main; main()"
        command = [sys.executable, "-c", program, "keys", "create", owner, "--data-dir", str(self.data_dir), "--json"]
        if "--database" in self._arguments:
            command += ["--database", self._arguments[self._arguments.index("--database") + 1]]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return str(json.loads(done.stdout)["key"])

    def client(self, owner: str = "tester") -> openai.OpenAI:
        """The official client, with a new key."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key(owner), max_retries=0, timeout=60)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and wait."""
        self.process.terminate()
        return self.process.wait(timeout=90)

    def trainers(self) -> list[int]:
        """The ids of the live trainer processes of this server's jobs."""
        found = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    command = (process / "cmdline").read_bytes()
                except OSError:
                    continue
                if b"tunesmith.server.trainer" in command and os.fsencode(self.data_dir) in command:
                    found.append(int(process.name))
        return found

    def kill_trainers(self) -> None:
        """SIGKILL for every trainer of this server."""
        for process in self.trainers():
            os.kill(process, signal.SIGKILL)


def ticket_rows(count: int) -> bytes:
    """The first rows of the ticket sample, as JSONL."""
    return b"".join(sample("tickets").read_bytes().splitlines(keepends=True)[:count])


def wait_until(condition, seconds: float = 600, every: float = 0.3):  # type: ignore[no-untyped-def]
    """Poll `condition` until it is true and return its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(every)
    raise TimeoutError


def ended(client: openai.OpenAI, job_id: str) -> FineTuningJob | None:
    """The job, once it has ended."""
    now = client.fine_tuning.jobs.retrieve(job_id)
    return now if now.status in ("succeeded", "failed", "cancelled") else None
