"""Training files: upload, the list, and the checklist's report on each."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import APIRouter, File, Request, Response, UploadFile
from fastapi.responses import FileResponse, RedirectResponse

from tunesmith.api import check
from tunesmith.quality.report import CheckReport
from tunesmith.report.check_page import check_part
from tunesmith.server import files
from tunesmith.server.api.dependencies import audit
from tunesmith.server.dashboard.access import HOME, CheckedForm, PageRoute, ServiceOf, Visitor, VisitorOf
from tunesmith.server.dashboard.pages import page
from tunesmith.server.errors import RequestError
from tunesmith.server.service import Service

router = APIRouter(prefix=f"{HOME}/files", route_class=PageRoute)

UPLOAD_PATH = router.prefix
"""Where a body may be as long as an upload."""

SHOWN = 100


@router.get("")
def list_files(request: Request, service: ServiceOf, who: VisitorOf) -> Response:
    """The form for an upload, and what was uploaded before."""
    return _list(request, service, who, problems=[])


@router.post("", dependencies=[CheckedForm])
def upload(
    request: Request,
    service: ServiceOf,
    who: VisitorOf,
    file: Annotated[UploadFile | None, File()] = None,
) -> Response:
    """Keep and validate a file, and show its checklist."""
    if file is None or not file.filename:
        return _list(request, service, who, problems=["Choose a file first"])
    try:
        record = files.add_upload(
            service.settings,
            service.store,
            who.owner,
            filename=file.filename,
            purpose=files.PURPOSE,
            stream=file.file,
        )
    except RequestError as error:
        return _list(request, service, who, problems=str(error).splitlines())
    audit(request, "file.create", record.id)
    return RedirectResponse(f"{UPLOAD_PATH}/{record.id}", 303)


@router.get("/{file_id}")
def show(request: Request, service: ServiceOf, who: VisitorOf, file_id: str) -> Response:
    """One file; its checklist is fetched by the page, as it can take a while."""
    record = service.store.get_file(who.owner, file_id)
    return page("file.html.j2", request, who, file=record, purpose=files.PURPOSE)


@router.get("/{file_id}/check")
def checklist(request: Request, service: ServiceOf, who: VisitorOf, file_id: str) -> Response:
    """The checklist's report, without a frame."""
    record = service.store.get_file(who.owner, file_id)
    report = _checked(files.path_of(service.settings, record), record.filename)
    return page("check.html.j2", request, who, report=report, body=check_part(report))


@router.get("/{file_id}/content")
def content(service: ServiceOf, who: VisitorOf, file_id: str) -> FileResponse:
    """The bytes, as an attachment: no browser should show what somebody uploaded as a page of this server."""
    record = service.store.get_file(who.owner, file_id)
    path = files.path_of(service.settings, record)
    return FileResponse(path, media_type="application/octet-stream", filename=record.filename)


@router.post("/{file_id}/delete", dependencies=[CheckedForm])
def delete(request: Request, service: ServiceOf, who: VisitorOf, file_id: str) -> Response:
    """Remove a file that no running job needs."""
    files.delete_file(service.settings, service.store, who.owner, file_id)
    audit(request, "file.delete", file_id)
    return RedirectResponse(UPLOAD_PATH, 303)


def _list(request: Request, service: Service, who: Visitor, *, problems: list[str]) -> Response:
    records = service.store.list_files(who.owner, purpose=files.PURPOSE, after=None, limit=SHOWN)
    return page(
        "files.html.j2",
        request,
        who,
        status=400 if problems else 200,
        files=records.items,
        more=records.has_more,
        problems=problems,
        suffixes=files.SUFFIXES,
        limit=service.settings.max_upload_bytes,
    )


@lru_cache(maxsize=64)
def _checked(path: Path, shown: str) -> CheckReport:
    """The checklist over an upload, whose bytes never change, with the name that its owner gave it."""
    encoded = msgspec.json.encode(check([path])).decode()
    named = encoded.replace(str(path), msgspec.json.encode(shown).decode()[1:-1])
    return msgspec.json.decode(named, type=CheckReport)
