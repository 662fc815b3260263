"""The server at 1 and at many concurrent clients, beside transformers' own `generate`, one prompt at a time.

    python benchmarks/serving.py [--model MODEL] [--clients 16] [--requests 64] > benchmarks/results/serving.md

It starts a server on loopback and asks it through the official `openai` client, first one request at a time, then from
`--clients` clients at once; then the same prompts go through `generate` in a process without a server. Every reply has
the same length (the end token is forbidden), so all three generate exactly as many tokens a request. Rounds alternate,
and the median of `--rounds` is printed, so that a machine that is not quite idle disturbs all alike. About a minute.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
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
    parser.add_argument("--rounds", type=int, default=3)
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
            server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
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
    assert await ask(client, model, 0, 1, forbidden={})
    ends = end_tokens(options.model)
    plain = Plain(options.model, [int(token) for token in ends])
    await asyncio.gather(*(ask(client, model, n, 4, ends) for n in range(options.clients)))  # warm
    plain.ask(0, 4)
    rates: dict[str, list[float]] = {name: [] for name in ("generate", "one", "many")}
    few = max(4, options.requests // 8)
    for _ in range(options.rounds):
        started = time.perf_counter()
        tokens = sum(plain.ask(number, options.tokens) for number in range(few))
        rates["generate"].append(tokens / (time.perf_counter() - started))
        for name, clients, requests in (("one", 1, few), ("many", options.clients, options.requests)):
            rates[name].append(await throughput(client, model, ends, clients, requests, options.tokens))
    report({name: statistics.median(found) for name, found in rates.items()}, model, options)


def report(rates: dict[str, float], model: str, options: argparse.Namespace) -> None:
    names = {
        "generate": "transformers `generate`, one prompt at a time, no server",
        "one": "the server, one client",
        "many": f"the server, {options.clients} clients at once",
    }
    print("# The server under load\n")
    print(f"`python benchmarks/serving.py --clients {options.clients} --requests {options.requests}`: ", end="")
    print(f"model `{model}`, {options.tokens} tokens a reply, median of {options.rounds} rounds, one torch thread,")
    print(f"{len(os.sched_getaffinity(0))} cores, load average at the end {os.getloadavg()[0]:.1f}.\n")
    print("| one after the other, or at once | requests/s | tokens/s | against `generate` |")
    print("| --- | ---: | ---: | ---: |")
    for key, name in names.items():
        rate = rates[key]
        print(f"| {name} | {rate / options.tokens:.2f} | {rate:.0f} | {rate / rates['generate']:.2f}x |")
    print(f"\n{options.clients} clients at once get {rates['many'] / rates['one']:.2f} times the tokens of one.")


async def throughput(
    client: openai.AsyncOpenAI, model: str, ends: dict[str, int], clients: int, requests: int, tokens: int
) -> float:
    """Tokens a second of `requests` requests from `clients` clients."""
    gate = asyncio.Semaphore(clients)

    async def one(number: int) -> int:
        async with gate:
            return await ask(client, model, number, tokens, ends)

    started = time.perf_counter()
    made = sum(await asyncio.gather(*(one(number) for number in range(requests))))
    return made / (time.perf_counter() - started)


class Plain:
    """transformers' `generate` over the same prompts."""

    def __init__(self, model: str, ends: list[int]) -> None:
        import torch

        from tunesmith.models.load import load_model, load_tokenizer

        torch.set_num_threads(1)
        self._model = load_model(model, dtype=torch.float32)
        self._tokenizer = load_tokenizer(model)
        self._ends = ends

    def ask(self, number: int, tokens: int) -> int:
        """Generate one reply; returns its tokens."""
        prompt = self._tokenizer.apply_chat_template(
            messages(number), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        made = self._model.generate(
            **prompt, max_new_tokens=tokens, do_sample=True, suppress_tokens=self._ends, eos_token_id=None
        )
        return int(made.shape[1] - prompt["input_ids"].shape[1])


def messages(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Write a story about bear number {number}."}]


async def ask(client: openai.AsyncOpenAI, model: str, number: int, tokens: int, forbidden: dict[str, int]) -> int:
    reply = await client.chat.completions.create(
        model=model,
        messages=messages(number),
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

    return {str(token): -100 for token in ends_of(None, load_tokenizer(model))}


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
