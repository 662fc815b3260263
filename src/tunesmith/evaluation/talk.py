"""Talking with a run's model: the quickest evaluation there is, and the one that numbers cannot replace.

Greedy, as `evaluate` is, so what is seen here is what was measured there. The base answers the tuned model's
conversation, not one of its own, so that the two replies differ by the tuning alone. It costs no second model where an
adapter can be switched off; the base of a fully tuned model is loaded the first time it is asked for.
"""

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.render import Renderer
from tunesmith.dataset.system_prompt import shared_system_prompt
from tunesmith.errors import RunError
from tunesmith.evaluation.generate import end_tokens
from tunesmith.models.generation import continue_tokens
from tunesmith.models.load import load_model, load_tokenizer, load_tuned
from tunesmith.run_folder import RunFolder

if TYPE_CHECKING:
    import torch

    from tunesmith.models.load import Model

MAX_REPLY_TOKENS = 1024
"""A reply that has not ended by then rambles."""


class Reply(Struct, frozen=True):
    """What a model said. `ended`: by itself, not by the limit of tokens."""

    text: str
    prompt_tokens: int
    reply_tokens: int
    seconds: float
    ended: bool


class Chat:
    """A conversation with the model of a finished run, under the system prompt that its rows share."""

    def __init__(self, run: RunFolder) -> None:
        self._spec = run.load_spec()
        self.system = shared_system_prompt(run)
        self._tokenizer = load_tokenizer(self._spec.model)
        self._renderer = Renderer(self._tokenizer)
        self._tuned = load_tuned(run, dtype=_dtype(), device=_device())
        self._base: Model | None = None
        self._messages: list[Message] = []
        self.reset()

    def reset(self) -> None:
        """Forget the conversation."""
        self._messages = [] if self.system is None else [Message("system", self.system)]

    def ask(self, text: str, *, on_text: Callable[[str], None] = lambda piece: None) -> Reply:
        """Say `text` and return the tuned model's reply; `on_text` is told each piece of it as it comes.

        Raises RunError when the conversation has outgrown what the model can read; it is then as it was before.
        """
        messages = [*self._messages, Message("user", text)]
        reply = self._reply(self._tuned, messages, on_text)
        self._messages = [*messages, Message("assistant", reply.text)]
        return reply

    def ask_base(self, *, on_text: Callable[[str], None] = lambda piece: None) -> Reply:
        """What the base model answers to the turn that was asked last. Raises RunError when none was."""
        if not self._messages or self._messages[-1].role != "assistant":
            raise RunError("there is no turn yet that the base model could answer; ask first")
        model, switch = self._base_model()
        with switch:
            return self._reply(model, self._messages[:-1], on_text)

    def _base_model(self) -> "tuple[Model, contextlib.AbstractContextManager[Any]]":
        from peft import PeftModel

        if isinstance(self._tuned, PeftModel):
            return self._tuned, self._tuned.disable_adapter()
        if self._base is None:
            self._base = load_model(self._spec.model, dtype=_dtype(), device=_device())
        return self._base, contextlib.nullcontext()

    def _reply(self, model: "Model", messages: list[Message], on_text: Callable[[str], None]) -> Reply:
        import torch
        from transformers import GenerationConfig

        started = time.monotonic()
        prompt = self._renderer.prompt(Conversation(tuple(messages), completion_start=len(messages)))
        ends = end_tokens(model.generation_config, self._tokenizer)
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            max_new_tokens=self._room(model, len(prompt)),
            eos_token_id=ends,
            pad_token_id=ends[0],
        )
        input_ids = torch.tensor([prompt], device=model.device)  # (1, tokens)
        with torch.inference_mode():
            streamer = _streamer(self._tokenizer, on_text)
            tokens = continue_tokens(model, input_ids, torch.ones_like(input_ids), settings, streamer=streamer)
        said: list[int] = tokens[0].tolist()
        ended = bool(said) and said[-1] in ends
        text = str(self._tokenizer.decode(said[:-1] if ended else said, skip_special_tokens=True)).strip()
        return Reply(text, len(prompt), len(said), time.monotonic() - started, ended)

    def _room(self, model: "Model", used: int) -> int:
        """Tokens that a reply may have."""
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        room = MAX_REPLY_TOKENS if limit is None else min(MAX_REPLY_TOKENS, limit - used)
        if room < 1:
            raise RunError(
                f"the conversation has {used:,} tokens and the model reads {limit:,}; start anew with /reset"
            )
        return room


def _streamer(tokenizer: Any, on_text: Callable[[str], None]) -> Any:
    """transformers' streamer, which knows when a token's text is final, telling `on_text` instead of printing."""
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text:
                on_text(text)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _dtype() -> "torch.dtype":
    import torch

    return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
