"""A running vLLM, as all who ask one know it: how it is reached, which base models it serves, what it says.

Reference: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html; what it does beyond that was seen of
version 0.32.0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tunesmith.models.load import resolve_model
from tunesmith.settings import api_key

KEY_VARIABLE = "TUNESMITH_BACKEND_KEY"

HOW_TO_START = "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora"

NOTHING_ELSE = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Or vLLM takes these from the model's generation config, which is no part of what it is asked."""


@dataclass(frozen=True)
class ServedBase:
    """A base model that it serves: its name there, and the tokens it takes at most."""

    name: str
    context: int | None


def key_headers() -> dict[str, str]:
    """What every request to it carries."""
    key = api_key(KEY_VARIABLE)
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def served_bases(models: Mapping[str, Any]) -> dict[str, ServedBase]:
    """Of its answer to `/v1/models`: each base by its name there and by what it was loaded from, as `source` has it."""
    found = {}
    for card in models["data"]:
        if card.get("parent") is None:  # or it is an adapter
            for place in (card["id"], card.get("root") or card["id"]):
                found[_whole(place)] = ServedBase(card["id"], card.get("max_model_len"))
    return found


def source(model: str) -> str:
    """What `served_bases` calls the base that we load as `model`. Raises ModelError."""
    return _whole(resolve_model(model))


def complaint(content: bytes) -> str:
    """What it says in an answer that is an error, in one line."""
    try:
        told = msgspec.json.decode(content)
        message = str(told.get("error", told)["message"])
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError):
        message = content.decode(errors="replace")[:200]
    return " ".join(message.split())


def _whole(place: str) -> str:
    """A folder by its whole path, a hub id as it is."""
    folder = Path(place).expanduser()
    return str(folder.resolve()) if folder.is_dir() else place
