"""A running vLLM that makes an online run's replies: on a GPU it batches them better than transformers' generation.

Before it is asked it loads the adapter as it is now, in place of the one before, from the run folder: so it must see
that folder, and the adapter must be a LoRA. It is given tokens and gives tokens, each with the log-probability by which
it was drawn: vLLM rounds otherwise than we do, and the objectives weigh that out (`rollouts.correction`). At another
temperature than 1 it must be started to say that one (`--logprobs-mode`), and not the model's own. The seeds are the
step's, so a resumed run asks what it asked before; vLLM, whose batches are its own, may answer a little otherwise.
"""

import hashlib
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME

from tunesmith.errors import SpecError, TrainingError, TunesmithError
from tunesmith.models.adapters import save_adapter
from tunesmith.models.vllm import (
    HOW_TO_START,
    KEY_VARIABLE,
    NOTHING_ELSE,
    ServedBase,
    complaint,
    key_headers,
    served_bases,
    source,
)
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec
from tunesmith.training import ranks
from tunesmith.training.checkpoint import storage_errors
from tunesmith.training.rollouts import Said
from tunesmith.training.sharding import give_back

if TYPE_CHECKING:
    from tunesmith.models.load import Model

TIMEOUT = httpx.Timeout(1800.0, connect=10.0)
"""Seconds: all replies to a prompt come at once, and long ones of a large model take long."""

IN_FLIGHT = 64
"""Prompts asked at a time; how many of the replies to them run at once is vLLM's business."""

DRAWN_SURELY = 1e-3
"""Nats that rounding may be off."""

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before it is asked again when it does not answer, or not now."""

NOT_NOW = frozenset({429, 502, 503, 504})


class VllmSampler:
    """The vLLM at `url` (its `/v1`) as what draws the replies of the run `spec`."""

    def __init__(self, spec: RunSpec, url: str, max_completion_length: int, temperature: float) -> None:
        self._url = url.rstrip("/")
        self._model = spec.model
        self._rank = spec.adapter.r
        self._max_completion_length = max_completion_length
        self._temperature = temperature
        self._folder = RunFolder(Path(spec.output)).rollouts.absolute()
        self._name = f"tunesmith-{hashlib.blake2b(bytes(self._folder), digest_size=6).hexdigest()}"
        self._given = ""  # a digest of the adapter that it has
        self._client = httpx.Client(headers=key_headers(), timeout=TIMEOUT)
        self._restoring = threading.Lock()

    def must_serve(self) -> None:
        """Raise SpecError when it is not there, or serves another model. All ranks call this."""
        with ranks.agreeing():
            if ranks.is_main():
                self._base()

    def start(self, model: "Model", longest_prompt: int) -> None:
        """`give` for the first time: what it cannot take is refused before anything of the run is on the disk.

        Raises SpecError, TrainingError or StorageError.
        """
        try:
            with ranks.agreeing():
                if ranks.is_main():
                    self._must_hold(longest_prompt + self._max_completion_length)
            self.give(model)
            with ranks.agreeing():
                if ranks.is_main() and self._temperature != 1.0:
                    self._must_say_by_what_it_draws()
        except TunesmithError:
            self.close()
            raise

    def give(self, model: "Model") -> None:
        """Let it have the adapter of `model` as it is now. All ranks call this. Raises TrainingError, StorageError."""
        given = self._given
        give_back(model)  # to write the adapter does, on the rank that writes it
        with ranks.agreeing():
            if ranks.is_main():
                given = self._write(model)
                if given != self._given:
                    self._load()
        self._given = ranks.from_main(given)

    def sample(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], *, each: int, ends: Sequence[int]
    ) -> list[Said]:
        """`each` replies to every prompt, those to one together, drawn at the policy's temperature up to one of `ends`.

        They are drawn by the prompt's seed and the numbers after it. Raises TrainingError when it cannot be had.
        """
        asked = self._asked(each, ends)
        bodies = [asked | {"prompt": list(prompt), "seed": seed} for prompt, seed in zip(prompts, seeds, strict=True)]
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            return [said for replies in pool.map(self._replies, bodies) for said in replies]

    def close(self) -> None:
        """Leave nothing behind, neither there nor in the run folder."""
        if ranks.is_main():
            with suppress(httpx.HTTPError):
                self._client.post(f"{self._url}/unload_lora_adapter", json={"lora_name": self._name}, timeout=10.0)
            shutil.rmtree(self._folder, ignore_errors=True)
            with suppress(OSError):
                self._folder.parent.rmdir()  # which is empty when no run came of it
        self._client.close()

    def _asked(self, each: int, ends: Sequence[int]) -> dict[str, Any]:
        return {
            "model": self._name,
            "n": each,
            "max_tokens": self._max_completion_length,
            "temperature": self._temperature,
            "top_p": 1.0,
            "stop_token_ids": list(ends),
            "logprobs": 0,
            "return_token_ids": True,
            "cache_salt": self._given,  # what it keeps of prompts was computed by the adapter before
            **NOTHING_ELSE,
        }

    def _must_say_by_what_it_draws(self) -> None:
        """Where only the likeliest token may be drawn, that is drawn by log-probability 0, whatever the model's is.

        Raises SpecError where it says the model's.
        """
        (said,) = self._replies(self._asked(1, []) | {"prompt": [0], "seed": 0, "top_k": 1})
        if any(logp < -DRAWN_SURELY for logp in said.logps or ()):
            raise SpecError(
                f"{self._place} says log-probabilities as they are at temperature 1; start it with --logprobs-mode "
                "processed_logprobs, or leave objective.temperature at 1"
            )

    def _base(self) -> ServedBase:
        try:
            answer = self._client.get(f"{self._url}/models")
        except httpx.HTTPError as error:
            raise SpecError(f"{self._place} does not answer: {_why(error)}; {HOW_TO_START}") from error
        if answer.status_code == 401:
            raise SpecError(f"{self._place} wants a key; set {KEY_VARIABLE} to it")
        try:
            bases = served_bases(answer.raise_for_status().json())
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError) as error:
            raise SpecError(f"{self._place} is no vLLM's ({_refusal(answer)}); it ends in /v1") from error
        if (base := bases.get(source(self._model))) is None:
            raise SpecError(
                f"{self._place} serves {', '.join(bases)}, and not {self._model}; start it with {source(self._model)}"
            )
        return base

    def _must_hold(self, tokens: int) -> None:
        context = self._base().context
        if context is not None and tokens > context:
            raise SpecError(
                f"{self._place} takes {context:,} tokens, and the longest prompt with its reply has {tokens:,}; start "
                f"it with --max-model-len {tokens}, or lower training.max_length or objective.max_completion_length"
            )

    def _write(self, model: "Model") -> str:
        """The adapter into the run folder; its digest."""
        assert isinstance(model, PeftModel)  # noqa: S101  # the spec is refused with another adapter than LoRA
        self._folder.mkdir(parents=True, exist_ok=True)
        with storage_errors(self._folder):
            save_adapter(model, self._folder, None)
        return hashlib.blake2b((self._folder / SAFETENSORS_WEIGHTS_NAME).read_bytes(), digest_size=16).hexdigest()

    def _load(self) -> None:
        asked = {"lora_name": self._name, "lora_path": str(self._folder), "load_inplace": True}
        answer = self._send("load_lora_adapter", asked)
        if not answer.is_success:
            raise TrainingError(
                f"{self._place} does not load the adapter ({_refusal(answer)}); {HOW_TO_START} --max-lora-rank "
                f"{self._rank}, where it sees {self._folder}{self._resume}"
            )

    def _replies(self, body: Mapping[str, Any]) -> list[Said]:
        answer = self._send("completions", body)
        if answer.status_code == 404:
            self._restore()
            answer = self._send("completions", body)
        if not answer.is_success:
            raise TrainingError(f"{self._place} makes no replies ({_refusal(answer)}); mend that{self._resume}")
        choices = sorted(answer.json()["choices"], key=lambda choice: int(choice["index"]))
        said = [Said(choice.get("token_ids") or [], choice["logprobs"]["token_logprobs"]) for choice in choices]
        if len(said) != body["n"] or any(not one.tokens or len(one.tokens) != len(one.logps or ()) for one in said):
            raise TrainingError(
                f"{self._place} does not say each reply's token ids and log-probabilities; take vLLM 0.32 or a later "
                f"one{self._resume}"
            )
        return said

    def _restore(self) -> None:
        """It was started again, and has lost the adapter."""
        with self._restoring:
            models = self._send("models").json()
            if source(self._model) not in served_bases(models):
                raise TrainingError(
                    f"{self._place} serves another model now; start it with {self._model}{self._resume}"
                )
            if self._name not in [card["id"] for card in models["data"]]:
                self._load()

    def _send(self, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        """Its answer, be it a refusal. Raises TrainingError when it gives none though it is asked again and again."""
        method, why = "GET" if body is None else "POST", ""
        for wait in (*WAITS, None):
            try:
                answer = self._client.request(method, f"{self._url}/{path}", json=body)
                if answer.status_code not in NOT_NOW:
                    return answer
                why = _refusal(answer)
            except httpx.TransportError as error:
                why = _why(error)
            if wait is not None:
                time.sleep(wait)
        raise TrainingError(f"{self._place} does not answer any more: {why}; start it again{self._resume}")

    @property
    def _place(self) -> str:
        return f"objective.vllm_url: {self._url}"

    @property
    def _resume(self) -> str:
        return " and go on with --resume" if self._given else ""


def _refusal(answer: httpx.Response) -> str:
    return f"{answer.status_code}: {complaint(answer.content)}"


def _why(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
