"""Requests a second of the server at 1 and at many concurrent clients, through the official `openai` client.

    python benchmarks/serving.py [--model MODEL] [--clients 16] [--requests 64] [--tokens 64]

It starts a server on loopback, sends the same chat requests one at a time and then from `--clients` clients at once,
and prints both rates and their ratio. Every reply has the same length (the end token is forbidden), so the two runs
generate exactly as many tokens.
"""

import argparse
import asyncio
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import openai

CLI = [sys.executable, "-c", "from tunesmith.cli.main import main; main()"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        made = subprocess.run(
            [*CLI, "keys", "create", "bench", "--data-dir", folder, "--json"], capture_output=True, check=True
        )
        served = [] if options.model == "embedded" else ["--model", f"bench={options.model}"]
        with Path(folder, "log").open("wb") as log:
            command = [*CLI, "serve", "--port", str(port), "--data-dir", folder, *served]
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/healthz")
            client = openai.AsyncOpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key=json.loads(made.stdout)["key"], timeout=600
            )
            asyncio.run(measure(client, "bench" if served else "embedded", options))
        finally:
            server.terminate()
            server.wait()


async def measure(client: openai.AsyncOpenAI, model: str, options: argparse.Namespace) -> None:
    probe = await ask(client, model, 0, 1, forbidden={})
    assert probe
    ends = end_tokens(options.model)
    await asyncio.gather(*(ask(client, model, n, 4, ends) for n in range(options.clients)))  # warm
    rates = {}
    for clients in (1, options.clients):
        gate = asyncio.Semaphore(clients)

        async def one(number: int, gate: asyncio.Semaphore = gate) -> int:
            async with gate:
                return await ask(client, model, number, options.tokens, ends)

        requests = max(4, options.requests // 4) if clients == 1 else options.requests
        started = time.perf_counter()
        tokens = sum(await asyncio.gather(*(one(number) for number in range(requests))))
        seconds = time.perf_counter() - started
        rates[clients] = tokens / seconds
        print(f"{clients:>3} clients: {requests / seconds:7.2f} requests/s {tokens / seconds:9.1f} tokens/s")
    print(f"ratio: {rates[options.clients] / rates[1]:.2f}x at {options.clients} clients against one at a time")
    print(f"{model}, {options.tokens} tokens a reply; {platform.processor() or platform.machine()}, ", end="")
    print(f"{len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}")


async def ask(client: openai.AsyncOpenAI, model: str, number: int, tokens: int, forbidden: dict[str, int]) -> int:
    reply = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": f"Write a story about bear number {number}."}],
        max_tokens=tokens,
        seed=number,
        logit_bias=forbidden,
    )
    assert reply.usage
    return reply.usage.completion_tokens


def end_tokens(model: str) -> dict[str, int]:
    """A bias that keeps replies from ending early, for the tokens that end one."""
    from tunesmith.evaluation.generate import end_tokens as ends_of
    from tunesmith.models.load import load_tokenizer

    class NoConfig:
        generation_config = None

    return {str(token): -100 for token in ends_of(NoConfig(), load_tokenizer(model))}  # type: ignore[arg-type]


def wait_for(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TimeoutError(url)


if __name__ == "__main__":
    main()
