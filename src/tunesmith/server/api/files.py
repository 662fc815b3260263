"""`/v1/files`: upload, list, retrieve, content, delete."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse

from tunesmith.server import files
from tunesmith.server.api.dependencies import After, AttemptOf, CallerOf, ServiceOf, audit, done_before
from tunesmith.server.api.pagination import page_body
from tunesmith.server.errors import RequestError
from tunesmith.server.records import FileRecord

router = APIRouter(prefix="/v1/files", tags=["Files"])


async def known_fields(request: Request) -> None:
    """Refuse what an upload's form has beside its fields, which FastAPI would ignore. Raises RequestError."""
    unknown = next((name for name in await request.form() if name not in ("file", "purpose")), None)
    if unknown is not None:
        name = unknown.partition("[")[0]
        raise RequestError(f"Unrecognized request argument supplied: {name}", code="unknown_parameter", param=name)


@router.post("", summary="Upload a training or validation file", dependencies=[Depends(known_fields)])
def create(
    request: Request,
    service: ServiceOf,
    caller: CallerOf,
    attempt: AttemptOf,
    file: Annotated[UploadFile, File()],
    purpose: Annotated[str, Form()],
) -> dict[str, Any]:
    """Keep and validate a file of at most the server's upload limit."""
    record = files.add_upload(
        service.settings,
        service.store,
        caller.owner,
        filename=file.filename or "",
        purpose=purpose,
        stream=file.file,
        attempt=attempt,
    )
    audit(request, "file.create", record.id)
    return _body(record)


@router.get("", summary="List files")
def list_files(
    service: ServiceOf,
    caller: CallerOf,
    purpose: str | None = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """A page of the caller's files."""
    page = service.store.list_files(
        caller.owner, purpose=purpose, after=after, limit=limit, newest_first=order == "desc"
    )
    return page_body([_body(record) for record in page.items], has_more=page.has_more)


@router.get("/{file_id}", summary="Retrieve a file's facts")
def retrieve(service: ServiceOf, caller: CallerOf, file_id: str) -> dict[str, Any]:
    """One file."""
    return _body(service.store.get_file(caller.owner, file_id))


@router.get("/{file_id}/content", summary="Download a file", response_class=FileResponse)
def content(service: ServiceOf, caller: CallerOf, file_id: str) -> FileResponse:
    """The bytes, as an attachment, so that no browser shows what somebody uploaded as a page of this server."""
    record = service.store.get_file(caller.owner, file_id)
    return FileResponse(
        files.path_of(service.settings, record), media_type="application/octet-stream", filename=record.filename
    )


@router.delete("/{file_id}", summary="Delete a file")
def delete(request: Request, service: ServiceOf, caller: CallerOf, attempt: AttemptOf, file_id: str) -> dict[str, Any]:
    """Remove a file that no running job needs."""
    digest = attempt.digest("delete", file_id)
    if not done_before(service, attempt, digest):
        files.delete_file(service.settings, service.store, caller.owner, file_id, request=digest)
        audit(request, "file.delete", file_id)
    return {"id": file_id, "object": "file", "deleted": True}


def _body(record: FileRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": int(record.created_at),
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
        "status_details": None,
    }
