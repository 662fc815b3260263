"""The list of jobs, a job's page, what one can do to a job, and its report."""

import hashlib

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from tunesmith.server import jobs
from tunesmith.server.api.dependencies import audit
from tunesmith.server.dashboard.access import HOME, CheckedForm, PageRoute, ServiceOf, Visitor, VisitorOf
from tunesmith.server.dashboard.job_view import hide_folders, regions, summarize
from tunesmith.server.dashboard.pages import REPORT_HEADERS, page, part
from tunesmith.server.errors import RequestError
from tunesmith.server.service import Service
from tunesmith.server.states import TERMINAL

router = APIRouter(prefix=HOME, route_class=PageRoute)

PAGE = 20
"""Jobs on one page of the list."""


@router.get("")
def list_jobs(request: Request, service: ServiceOf, who: VisitorOf, after: str | None = None) -> Response:
    """All jobs, newest first."""
    table = _table(service, who, after)
    return page("jobs.html.j2", request, who, table=table, version=_version(table), after=after)


@router.get("/jobs/table")
def table(service: ServiceOf, who: VisitorOf, version: str = "", after: str | None = None) -> Response:
    """The list alone, for a page that shows `version` of it; 204 while nothing has changed, which keeps the focus."""
    text = _table(service, who, after)
    if _version(text) == version:
        return Response(status_code=204)
    return HTMLResponse(part("jobs_live.html.j2", table=text, version=_version(text), after=after))


@router.get("/jobs/{job_id}")
def show(request: Request, service: ServiceOf, who: VisitorOf, job_id: str) -> Response:
    """One job."""
    job = service.store.get_job(who.owner, job_id)
    return page(
        "job.html.j2",
        request,
        who,
        job=job,
        summary=summarize(service, job),
        regions=regions(service, who, job),
        over=job.status in TERMINAL,
    )


@router.post("/jobs/{job_id}/{action}", dependencies=[CheckedForm])
def act(request: Request, service: ServiceOf, who: VisitorOf, job_id: str, action: str) -> Response:
    """Pause, resume or cancel."""
    verbs = {"pause": jobs.pause_job, "resume": jobs.resume_job, "cancel": jobs.cancel_job}
    if action not in verbs:
        raise RequestError(f"A job cannot be told to {action}", status=404)
    verbs[action](service, who.owner, job_id)
    audit(request, f"job.{action}", job_id)
    return RedirectResponse(f"{HOME}/jobs/{job_id}", 303)


@router.get("/jobs/{job_id}/report")
def report(service: ServiceOf, who: VisitorOf, job_id: str) -> Response:
    """The run's report, as the file in its folder has it."""
    job = service.store.get_job(who.owner, job_id)
    run = jobs.job_folder(service, job).run
    if not run.report.is_file():
        raise RequestError("There is no report yet: it is written when training ends", status=404)
    text = hide_folders(service, job, run.report.read_text(encoding="utf-8"))
    return HTMLResponse(text, headers=REPORT_HEADERS)


def _table(service: Service, who: Visitor, after: str | None) -> str:
    found = service.store.list_jobs(who.owner, after=after, limit=PAGE)
    summaries = [summarize(service, job) for job in found.items]
    return part("jobs_table.html.j2", summaries=summaries, has_more=found.has_more, after=after)


def _version(table: str) -> str:
    return hashlib.sha256(table.encode()).hexdigest()[:16]
