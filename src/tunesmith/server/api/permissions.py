"""`/v1/fine_tuning/checkpoints/MODEL/permissions`: let other owners use a fine-tuned model, or one of its checkpoints.

OpenAI shares between the projects of an organization, by an admin's key. Here each owner of keys is a project, and
shares what is theirs. A model that is shared can be asked, under its name; it cannot be deleted or trained further.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.server.api.dependencies import After, AttemptOf, CallerOf, ServiceOf, audit, done_before
from tunesmith.server.api.pagination import page_body
from tunesmith.server.auth import OWNER
from tunesmith.server.errors import not_found
from tunesmith.server.records import PermissionRecord

router = APIRouter(prefix="/v1/fine_tuning/checkpoints", tags=["Fine-tuning"])

MAX_PROJECTS = 100
"""In one request."""


class PermissionBody(BaseModel):
    """A request for permissions; a project is an owner of keys."""

    model_config = ConfigDict(extra="forbid")

    project_ids: list[Annotated[str, Field(pattern=rf"^{OWNER}$")]] = Field(min_length=1, max_length=MAX_PROJECTS)


@router.post("/{model:path}/permissions", summary="Share a model")
def create(request: Request, service: ServiceOf, caller: CallerOf, model: str, body: PermissionBody) -> dict[str, Any]:
    """Let the projects use a model or checkpoint of the caller's; those that may already keep their permission."""
    service.catalogue.owned(caller.owner, model)
    made = [service.store.add_permission(caller.owner, model, project) for project in dict.fromkeys(body.project_ids)]
    for permission in made:
        audit(request, "permission.create", permission.id)
    return page_body([_body(permission) for permission in made], has_more=False)


@router.get("/{model:path}/permissions", summary="List whom a model is shared with")
def list_permissions(
    service: ServiceOf,
    caller: CallerOf,
    model: str,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    order: Literal["ascending", "descending"] = "descending",
    project_id: str | None = None,
) -> dict[str, Any]:
    """A page of the permissions of a model."""
    service.catalogue.owned(caller.owner, model)
    page = service.store.list_permissions(
        caller.owner, model, project=project_id, after=after, limit=limit, newest_first=order == "descending"
    )
    return page_body([_body(permission) for permission in page.items], has_more=page.has_more)


@router.delete("/{model:path}/permissions/{permission_id}", summary="Stop sharing a model")
def delete(
    request: Request, service: ServiceOf, caller: CallerOf, attempt: AttemptOf, model: str, permission_id: str
) -> dict[str, Any]:
    """Take a permission back; it ends with the next request."""
    digest = attempt.digest("delete", permission_id)
    if not done_before(service, attempt, digest):
        if not service.store.delete_permission(caller.owner, model, permission_id, request=digest):
            raise not_found("permission", permission_id)
        audit(request, "permission.delete", permission_id)
    return {"id": permission_id, "object": "checkpoint.permission", "deleted": True}


def _body(permission: PermissionRecord) -> dict[str, Any]:
    return {
        "id": permission.id,
        "object": "checkpoint.permission",
        "created_at": int(permission.created_at),
        "project_id": permission.project,
    }
