"""`/v1/models`: list, retrieve, delete."""

from typing import Any

from fastapi import APIRouter, Request

from tunesmith.server.api.dependencies import AttemptOf, CallerOf, ServiceOf, audit, done_before
from tunesmith.server.catalogue import ModelEntry

router = APIRouter(prefix="/v1/models", tags=["Models"])


@router.get("", summary="List models")
def list_models(service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """The base models and the caller's fine-tuned ones."""
    return {"object": "list", "data": [_body(entry) for entry in service.catalogue.entries(caller.owner)]}


@router.get("/{model:path}", summary="Retrieve a model")
def retrieve(service: ServiceOf, caller: CallerOf, model: str) -> dict[str, Any]:
    """One model."""
    return _body(service.catalogue.get(caller.owner, model))


@router.delete("/{model:path}", summary="Delete a fine-tuned model")
def delete(request: Request, service: ServiceOf, caller: CallerOf, attempt: AttemptOf, model: str) -> dict[str, Any]:
    """Remove a fine-tuned model and its weights."""
    digest = attempt.digest("delete", model)
    if not done_before(service, attempt, digest):
        service.catalogue.delete(caller.owner, model, request=digest)
        if service.backend is not None:
            service.backend.forget(model)
        audit(request, "model.delete", model)
    return {"id": model, "object": "model", "deleted": True}


def _body(entry: ModelEntry) -> dict[str, Any]:
    return {"id": entry.id, "object": "model", "created": int(entry.created), "owned_by": entry.owned_by}
