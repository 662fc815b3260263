"""A running vLLM that generates in our stead: on a GPU it batches better than our own engine.

It is given tokens and gives tokens: prompts are rendered, tools read and replies ended here, by the same code as with
our own engine, so a model is asked in the form in which it was taught whoever computes. Adapters are loaded into it
when somebody first asks for them (https://docs.vllm.ai/en/latest/features/lora/). It reads them from our data folder,
so it runs on this machine, or on one that shares the folder.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import msgspec
from fastapi.concurrency import run_in_threadpool

from tunesmith.models.vllm import HOW_TO_START, ServedBase, complaint, key_headers, served_bases, source
from tunesmith.server.adapters import Adapter
from tunesmith.server.catalogue import ServedModel
from tunesmith.server.errors import RequestError
from tunesmith.server.language import Language, read_language
from tunesmith.server.replies import Deliver, GenerationRequest, ScoreRequest, told
from tunesmith.server.vllm_wire import Reader, generation_body, score_body, scored

TIMEOUT = httpx.Timeout(600.0, connect=10.0)
"""Seconds: as long as OpenAI's SDK waits for an answer."""


class Backend:
    """The vLLM server at `url` (its `/v1`)."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._headers = key_headers()
        self._client = httpx.AsyncClient(headers=self._headers, timeout=TIMEOUT, limits=httpx.Limits())  # no limits
        self._bases: dict[str, ServedBase] = {}  # by what they are loaded from
        self._languages: dict[str, Language] = {}
        self._loaded: set[str] = set()
        self._loading = asyncio.Lock()

    async def engine(self, model: ServedModel) -> "RemoteEngine | None":
        """What generates for the model's base there; None when it serves another. Raises RequestError or ModelError."""
        base = await self._base(model.base)
        if base is None:
            return None
        if model.base not in self._languages:
            self._languages[model.base] = await run_in_threadpool(read_language, model.base, most_context=base.context)
        return RemoteEngine(self, model.base, self._languages[model.base])

    async def answer(self, base: str, adapter: Adapter | None, body: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer to a completion request. Raises RequestError."""
        response = await self._send(base, adapter, body)
        told: dict[str, Any] = msgspec.json.decode(await response.aread())
        return told

    async def chunks(
        self, base: str, adapter: Adapter | None, body: Mapping[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        """The chunks of its streamed answer; leaving off ends the generation there. Raises RequestError."""
        response = await self._send(base, adapter, {**body, "stream": True})
        try:
            async for line in response.aiter_lines():
                _, separator, data = line.partition("data: ")
                if separator and data != "[DONE]":
                    chunk: dict[str, Any] = msgspec.json.decode(data)
                    if "error" in chunk:
                        raise _refusal(500, data.encode())
                    yield chunk
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

    async def _send(self, place: str, adapter: Adapter | None, body: Mapping[str, Any]) -> httpx.Response:
        """Its answer, not yet read; an adapter that it has lost (it was started again) is loaded once more."""
        for again in (False, True):
            base = await self._base(place)
            if base is None:
                raise RequestError("The backend serves another model now", status=503, code="backend_unreachable")
            if adapter is not None:
                await self._load(adapter)
            response = await self._post("completions", {**body, "model": base.name if adapter is None else adapter.id})
            if response.is_success:
                return response
            if response.status_code != 404 or again:
                break
            await response.aclose()
            self._forget_all()  # it was started again, perhaps with another model
        raise _refusal(response.status_code, await response.aread())

    async def _base(self, place: str) -> ServedBase | None:
        """The base that is loaded from `place`; None when it serves none such, of which it is asked each time."""
        wanted = source(place)
        if wanted not in self._bases:
            try:
                response = await self._client.get(f"{self._url}/models")
            except httpx.HTTPError as error:
                raise self._away(error) from error
            if not response.is_success:
                raise _refusal(response.status_code, response.content)
            self._bases |= served_bases(msgspec.json.decode(response.content))
        return self._bases.get(wanted)

    async def _load(self, adapter: Adapter) -> None:
        async with self._loading:
            if adapter.id in self._loaded:
                return
            # In place: what it has by that name from before our start may be somebody else's.
            asked = {"lora_name": adapter.id, "lora_path": str(adapter.folder.resolve()), "load_inplace": True}
            response = await self._post("load_lora_adapter", asked)
            said = (await response.aread()).decode(errors="replace")
            if not response.is_success:
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
        self._forget_all()
        return RequestError(
            f"The backend does not answer: {str(error) or type(error).__name__}", status=503, code="backend_unreachable"
        )

    def _forget_all(self) -> None:
        """Whoever comes back may serve another model, and has no adapters."""
        self._bases.clear()
        self._languages.clear()
        self._loaded.clear()


class RemoteEngine:
    """One base model of a backend (an `Engine`)."""

    def __init__(self, backend: Backend, base: str, language: Language) -> None:
        self.language = language
        self._backend = backend
        self._base = base

    def submit(self, request: GenerationRequest | ScoreRequest, deliver: Deliver) -> asyncio.Task[None]:
        """Begin a request; to cancel the task ends the generation there."""
        return asyncio.create_task(self._run(request, deliver))

    async def _run(self, request: GenerationRequest | ScoreRequest, deliver: Deliver) -> None:
        try:
            if isinstance(request, ScoreRequest):
                deliver(scored(await self._backend.answer(self._base, request.adapter, score_body(request)), request))
            else:
                await self._generate(request, deliver)
        except Exception as error:  # noqa: BLE001  # whoever asked must hear of it, and nobody else is there to
            deliver(told(error))

    async def _generate(self, request: GenerationRequest, deliver: Deliver) -> None:
        reader = Reader(request, self.language)
        chunks = self._backend.chunks(self._base, request.adapter, generation_body(request, self.language))
        try:
            async for chunk in chunks:
                pieces = reader.read(chunk)
                if pieces:
                    deliver(pieces)
                if reader.ended:
                    return
        finally:
            await chunks.aclose()  # type: ignore[attr-defined]  # it is a generator
        raise RequestError("The backend left off before its end", status=503, code="backend_unreachable")


def _refusal(status: int, content: bytes) -> RequestError:
    """What it said. It was asked for nothing that a client spells, so it is no client's mistake."""
    return RequestError(f"The backend refused ({status}): {complaint(content)}", status=503, code="backend_refused")
