"""Who answers: a local model, or any OpenAI-compatible endpoint. The baselines know only the `Responder` protocol.

Both answer greedily (temperature 0), because a comparison must not depend on luck. Latency is that of one call alone:
a local model answers in batches, which says nothing of a single call, so a few calls are timed one by one.
"""

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tunesmith.advice.reading import READ_ROWS
from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.prompting import Prompt
from tunesmith.errors import MissingDependencyError, ModelError
from tunesmith.planning.data_facts import CHARACTERS_PER_TOKEN, TEMPLATE_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TIMED_CALLS = 3
"""Calls of a local model timed one by one for each way of asking."""

PARALLEL_CALLS = 8
"""Calls of an endpoint under way at once."""

READ_TOKENS = 256
"""Tokens of a row on which a local model's bits per byte are measured."""

TEMPERATURES = (1.0, 1.4, 2.0, 2.8, 4.0)
"""Tried for the bits per byte; a well-calibrated model is best at 1."""


@dataclass(frozen=True)
class Reply:
    """What the model said; `seconds` is the time of a call on its own, None where it was not timed."""

    text: str
    prompt_tokens: int
    reply_tokens: int
    seconds: float | None = None


class Responder(Protocol):
    """A model that can be asked."""

    @property
    def context(self) -> int | None:
        """Tokens that prompt and reply may have together; None when it is not known."""
        ...

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of a prompt, exactly or by estimate."""
        ...

    def answer(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        """A greedy reply to each prompt, in their order."""
        ...

    def bits_per_byte(self, rows: Sequence[Conversation]) -> float | None:
        """How well the model predicts the text of `rows`; None when it does not tell."""
        ...


class LocalModel:
    """A model of transformers' on this machine's GPU or CPU. Raises ModelError when it cannot be loaded."""

    def __init__(self, ref: str) -> None:
        import torch

        from tunesmith.dataset.render import Renderer
        from tunesmith.models.load import load_model, load_tokenizer

        device = "cuda" if torch.cuda.is_available() else "cpu"
        fast = device == "cuda" and torch.cuda.is_bf16_supported()
        self._tokenizer = load_tokenizer(ref)
        self._renderer = Renderer(self._tokenizer)
        self._model: PreTrainedModel = load_model(ref, dtype=torch.bfloat16 if fast else torch.float32, device=device)

    @property
    def context(self) -> int | None:
        """The longest sequence that the model's positions allow."""
        from tunesmith.evaluation.measure import context

        return context(self._model)

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of the prompt with its chat template."""
        return len(self._tokens(prompt))

    def answer(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        """Replies in batches; the first few prompts are asked again on their own for their time."""
        from tunesmith.evaluation.generate import generate

        tokens = [self._tokens(prompt) for prompt in prompts]
        texts = generate(self._model, self._tokenizer, tokens, max_new_tokens=max_new_tokens)
        seconds: list[float | None] = [None] * len(prompts)
        for index in range(min(TIMED_CALLS, len(prompts))):
            started = time.perf_counter()
            generate(self._model, self._tokenizer, [tokens[index]], max_new_tokens=max_new_tokens)
            seconds[index] = time.perf_counter() - started
        return [
            Reply(text, len(asked), len(self._tokenizer.encode(text, add_special_tokens=False)) + 1, taken)
            for text, asked, taken in zip(texts, tokens, seconds, strict=True)
        ]

    def bits_per_byte(self, rows: Sequence[Conversation]) -> float | None:
        """Cross-entropy per byte of UTF-8, so that tokenizers compare: of whole rows, or of their replies if lower.

        Some chat models were trained on replies only and never learned to predict what people write. The logits are
        taken at the temperature that fits best (Guo et al. 2017, https://arxiv.org/abs/1706.04599): a model that is
        too sure of itself, as small ones are, is wrong loudly, which says nothing of what it knows.
        """
        import torch

        bits, sizes = np.zeros((2, len(TEMPERATURES))), np.zeros((2, 1))  # (whole rows or replies, temperatures)
        for row in rows[:READ_ROWS]:
            rendered = self._renderer.render(row, max_length=READ_TOKENS)
            ids = torch.from_numpy(rendered.tokens).long().to(self._model.device)  # (tokens,)
            if len(ids) < 2:
                continue
            with torch.inference_mode():
                logits = self._model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
            everything = torch.ones(len(ids), dtype=torch.bool)
            for part, chosen in enumerate((everything, torch.from_numpy(rendered.supervised))):
                text = str(self._tokenizer.decode(ids.cpu()[chosen].tolist(), skip_special_tokens=True))
                sizes[part] += len(text.encode())
            for place, temperature in enumerate(TEMPERATURES):
                nats = torch.nn.functional.cross_entropy(logits / temperature, ids[1:], reduction="none").cpu()
                bits[0, place] += float(nats.sum()) / math.log(2)
                bits[1, place] += float(nats[torch.from_numpy(rendered.supervised)[1:]].sum()) / math.log(2)
        read = sizes[:, 0] > 0
        return float((bits[read] / sizes[read]).min()) if read.any() else None

    def _tokens(self, prompt: Prompt) -> list[int]:
        return self._renderer.prompt(Conversation((*prompt, Message("assistant")), completion_start=len(prompt)))


class Endpoint:
    """A model behind an OpenAI-compatible `/chat/completions`. Raises MissingDependencyError without the SDK."""

    def __init__(self, url: str, model: str, api_key: str | None) -> None:
        try:
            import openai
        except ImportError as error:
            raise MissingDependencyError(
                "--endpoint needs the openai package; install it with: pip install 'tunesmith[openai]'"
            ) from error
        self._url, self._model = url, model
        self._errors = openai
        # Servers of one's own mostly want no key, the SDK always wants a string.
        self._client = openai.OpenAI(base_url=url, api_key=api_key or "none", max_retries=4)
        self._limit = "max_tokens"
        self._sampling: dict[str, Any] = {"temperature": 0}

    @property
    def context(self) -> int | None:
        """Not told by the wire."""
        return None

    def count_tokens(self, prompt: Prompt) -> int:
        """An estimate; the replies bring the endpoint's own count."""
        return sum(len(message.content) // CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS for message in prompt)

    def answer(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        """Replies, several calls at once. Raises ModelError with the endpoint's reason when it refuses."""
        if not prompts:
            return []
        first = self._call(prompts[0], max_new_tokens)  # alone: a wrong key or name is then one error, not many
        with ThreadPoolExecutor(PARALLEL_CALLS) as pool:
            return [first, *pool.map(lambda prompt: self._call(prompt, max_new_tokens), prompts[1:])]

    def bits_per_byte(self, rows: Sequence[Conversation]) -> float | None:
        """Chat completions do not tell the probability of a given text."""
        return None

    def _call(self, prompt: Prompt, max_new_tokens: int) -> Reply:
        messages: Any = [{"role": message.role, "content": message.content} for message in prompt]
        options = {self._limit: max_new_tokens, **self._sampling}
        started = time.perf_counter()
        try:
            done: Any = self._client.chat.completions.create(model=self._model, messages=messages, **options)
        except self._errors.BadRequestError as error:
            if not self._adapt(str(error)):
                raise ModelError(f"--endpoint {self._url}: {_cause(error)}") from error
            return self._call(prompt, max_new_tokens)
        except self._errors.AuthenticationError as error:
            raise ModelError(
                f"--endpoint {self._url}: the key was refused; set OPENAI_API_KEY in the environment"
            ) from error
        except self._errors.NotFoundError as error:
            raise ModelError(f"--endpoint {self._url}: no model {self._model} there: {_cause(error)}") from error
        except self._errors.OpenAIError as error:
            raise ModelError(f"--endpoint {self._url}: no answer: {_cause(error)}; check the URL") from error
        text = (done.choices[0].message.content or "").strip() if done.choices else ""
        answered = (Message("assistant", text),)
        return Reply(
            text,
            done.usage.prompt_tokens if done.usage else self.count_tokens(prompt),
            done.usage.completion_tokens if done.usage else self.count_tokens(answered),
            time.perf_counter() - started,
        )

    def _adapt(self, complaint: str) -> bool:
        """Whether a refused call is worth another try: newer models know another limit, or only one temperature."""
        if self._limit == "max_tokens" and "max_completion_tokens" in complaint:
            self._limit = "max_completion_tokens"
            return True
        if self._sampling and "temperature" in complaint:
            self._sampling = {}
            return True
        return False


def _cause(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")
