"""Blind judging of a job's two models by people, over the functions of `tunesmith compare`.

The rater is the key's owner; which model wrote which stays hidden until the results are asked for.
"""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from tunesmith.evaluation.human.duels import Board, make_board
from tunesmith.evaluation.human.judging import judge, progress
from tunesmith.evaluation.human.results import summarize
from tunesmith.evaluation.human.store import Store
from tunesmith.server import jobs
from tunesmith.server.dashboard.access import HOME, CheckedForm, PageRoute, ServiceOf, Visitor, VisitorOf
from tunesmith.server.dashboard.pages import page
from tunesmith.server.errors import RequestError
from tunesmith.server.records import JobRecord
from tunesmith.server.service import Service

router = APIRouter(prefix=f"{HOME}/jobs/{{job_id}}", route_class=PageRoute)


@router.get("/judge")
def show(request: Request, service: ServiceOf, who: VisitorOf, job_id: str, pair: str | None = None) -> Response:
    """The next pair that this rater has not judged, or the one asked for, or the end."""
    job, board, store = _opened(service, who, job_id)
    return page("judge.html.j2", request, who, job=job, progress=progress(board, store, who.owner, pair))


@router.post("/judge", dependencies=[CheckedForm])
def record(
    service: ServiceOf,
    who: VisitorOf,
    job_id: str,
    pair: Annotated[str, Form()],
    choice: Annotated[str, Form()],
    note: Annotated[str, Form()] = "",
    seconds: Annotated[str, Form()] = "",
) -> Response:
    """Keep a judgement and go on."""
    _, board, store = _opened(service, who, job_id)
    if not judge(board, store, who.owner, pair=pair, side=choice, note=note, seconds=seconds):
        raise RequestError("No such pair or choice; the job may have been evaluated anew: reload the page", status=404)
    return RedirectResponse(f"{HOME}/jobs/{job_id}/judge", 303)


@router.get("/judgements")
def judgements(request: Request, service: ServiceOf, who: VisitorOf, job_id: str) -> Response:
    """What the judgements say so far, models named."""
    job, board, store = _opened(service, who, job_id)
    results = summarize(job.id, board, store.judgements())
    return page("judgements.html.j2", request, who, job=job, results=results)


def _opened(service: Service, who: Visitor, job_id: str) -> tuple[JobRecord, Board, Store]:
    """The job, its pairs and where judgements are kept. Raises RequestError 404, or RunError before an evaluation."""
    job = service.store.get_job(who.owner, job_id)
    run = jobs.job_folder(service, job).run
    if not run.evaluation.is_file():
        raise RequestError("There is nothing to judge yet: replies are made when training has ended", status=404)
    board, store = make_board([run]), Store(run.human)
    store.set_aside_outdated(board)
    return job, board, store
