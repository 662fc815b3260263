"""From tokens to text as it comes: no half characters, and nothing past a stop sequence.

The end of what is known is held back while it could still become a stop sequence.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tokenizers.decoders import DecodeStream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextStream:
    """Collects one reply. `stopped` says that a stop sequence has come; the text ends before it.

    Special tokens are no text, but for `marks` (text → token).
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        stops: Sequence[str],
        marks: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        # Any: only fast tokenizers have it, and `load_tokenizer` gives no others; the base class does not declare it.
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._marks = {token: text for text, token in marks.items()}
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that is certain after `token`; often empty."""
        text = self._held + (self._marks.get(token) or self._decoder.step(self._backend, token) or "")
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, at the end of a reply that no stop sequence ended."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
