"""A running vLLM that generates in our stead: on a GPU it batches better than our own engine, and speaks this wire.

Requests for the base model that it serves pass through once they have been checked here; adapters are loaded into it
when somebody first asks for them, by its endpoints for that (https://docs.vllm.ai/en/latest/features/lora/). It reads
them from our data folder, so it runs on this machine, or on one that shares the folder.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tunesmith.models.load import resolve_model
from tunesmith.server.adapters import Adapter
from tunesmith.server.catalogue import ServedModel
from tunesmith.server.errors import RequestError
from tunesmith.settings import api_key

KEY_VARIABLE = "TUNESMITH_BACKEND_KEY"

TIMEOUT = httpx.Timeout(600.0, connect=10.0)
"""Seconds: as long as OpenAI's SDK waits for an answer."""

HOW_TO_START = "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"


class Backend:
    """The vLLM server at `url` (its `/v1`)."""

    def __init__(self, url: str) -> None:
        key = api_key(KEY_VARIABLE)
        self._url = url.rstrip("/")
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._client = httpx.AsyncClient(headers=self._headers, timeout=TIMEOUT)
        self._names: dict[str, str] = {}  # what a base model is loaded from → its name there
        self._loaded: set[str] = set()
        self._loading = asyncio.Lock()

    async def serves(self, model: ServedModel) -> bool:
        """Whether it serves the model's base. Raises RequestError 503 when it does not answer."""
        return await self._name(model) is not None

    async def reply(self, path: str, model: ServedModel, body: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer to a request for `model`, which it serves. Raises RequestError."""
        response = await self._send(path, model, body)
        answer: dict[str, Any] = msgspec.json.decode(await response.aread())
        return answer | {"model": model.id}

    async def chunks(self, path: str, model: ServedModel, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The chunks of its streamed answer; leaving off ends the generation there. Raises RequestError."""
        response = await self._send(path, model, body)
        try:
            async for line in response.aiter_lines():
                _, separator, data = line.partition("data: ")
                if separator and data != "[DONE]":
                    chunk: dict[str, Any] = msgspec.json.decode(data)
                    if "error" in chunk:
                        raise _refusal(500, data.encode())
                    yield chunk | {"model": model.id}
        except httpx.HTTPError as error:
            raise self._away(error) from error
        finally:
            await response.aclose()

    def forget(self, model_id: str) -> None:
        """Drop the adapters of a model and its checkpoints from its memory; one that does not answer has none."""
        for name in [name for name in self._loaded if name == model_id or name.startswith(f"{model_id}:")]:
            self._loaded.discard(name)
            try:
                httpx.post(f"{self._url}/unload_lora_adapter", json={"lora_name": name}, headers=self._headers)
            except httpx.HTTPError:
                return

    async def _send(self, path: str, model: ServedModel, body: Mapping[str, Any]) -> httpx.Response:
        """Its answer, not yet read; an adapter that it has lost (it was started again) is loaded once more."""
        name = await self._name(model)
        if model.adapter is not None:
            name = model.adapter.id
            await self._load(model.adapter)
        response = await self._post(path, {**body, "model": name})
        if response.status_code == 404 and model.adapter is not None:
            await response.aclose()
            self._loaded.discard(model.adapter.id)
            await self._load(model.adapter)
            response = await self._post(path, {**body, "model": name})
        if response.is_success:
            return response
        if response.status_code == 404:
            self._names.clear()  # it was started again with another model
        raise _refusal(response.status_code, await response.aread())

    async def _name(self, model: ServedModel) -> str | None:
        """What it calls the model's base; None when it serves another."""
        if not self._names:
            try:
                response = await self._client.get(f"{self._url}/models")
            except httpx.HTTPError as error:
                raise self._away(error) from error
            if not response.is_success:
                raise _refusal(response.status_code, response.content)
            for card in msgspec.json.decode(response.content)["data"]:
                if card.get("parent") is None:
                    for source in (card["id"], card.get("root") or card["id"]):
                        self._names.setdefault(_place(source), card["id"])
        return self._names.get(_place(resolve_model(model.base)))

    async def _load(self, adapter: Adapter) -> None:
        async with self._loading:
            if adapter.id in self._loaded:
                return
            asked = {"lora_name": adapter.id, "lora_path": str(adapter.folder.resolve())}
            response = await self._post("load_lora_adapter", asked)
            said = (await response.aread()).decode(errors="replace")
            if not response.is_success and "already" not in said:
                raise RequestError(
                    f"The backend cannot load model {adapter.id} ({said[:200]}); {HOW_TO_START}",
                    status=503,
                    code="backend_refused",
                )
            self._loaded.add(adapter.id)

    async def _post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        request = self._client.build_request("POST", f"{self._url}/{path}", json=dict(body))
        try:
            return await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise self._away(error) from error

    def _away(self, error: httpx.HTTPError) -> RequestError:
        self._names.clear()  # whoever comes back may serve another model
        self._loaded.clear()
        return RequestError(
            f"The backend does not answer: {error or type(error).__name__}", status=503, code="backend_unreachable"
        )


def _place(source: str) -> str:
    """A folder by its whole path, a hub id as it is."""
    folder = Path(source).expanduser()
    return str(folder.resolve()) if folder.is_dir() else source


def _refusal(status: int, content: bytes) -> RequestError:
    """What it said, in OpenAI's form or in that of vLLM's older versions."""
    try:
        told = msgspec.json.decode(content)
        told = told.get("error", told)
        message, param, code = str(told["message"]), told.get("param"), told.get("code")
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError):
        message, param, code = content.decode(errors="replace")[:200], None, None
    return RequestError(message, status=status, code=code if isinstance(code, str) else None, param=param)
