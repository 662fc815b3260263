"""Blind judging of a job's two models by people, over the functions of `tunesmith compare`.

The rater is the key's owner; which model wrote which stays hidden until the results are asked for.
"""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from tunesmith.evaluation.human.duels import Board, Duel, first_stands_left, make_board, order_for
from tunesmith.evaluation.human.results import summarize
from tunesmith.evaluation.human.store import Choice, Store
from tunesmith.server import jobs
from tunesmith.server.dashboard.access import HOME, CheckedForm, PageRoute, ServiceOf, Visitor, VisitorOf
from tunesmith.server.dashboard.pages import page
from tunesmith.server.errors import RequestError
from tunesmith.server.records import JobRecord
from tunesmith.server.service import Service

router = APIRouter(prefix=f"{HOME}/jobs/{{job_id}}", route_class=PageRoute)


@router.get("/judge")
def judge(request: Request, service: ServiceOf, who: VisitorOf, job_id: str) -> Response:
    """The next pair that this rater has not judged, or the end."""
    job, board, store = _opened(service, who, job_id)
    waiting = _waiting(who, board, store)
    duel = waiting[0] if waiting else None
    replies: tuple[str, ...] = ()
    if duel is not None:
        replies = (duel.first_reply, duel.second_reply)
        if not first_stands_left(who.owner, duel, store.seed):
            replies = replies[::-1]
    return page(
        "judge.html.j2",
        request,
        who,
        job=job,
        duel=duel,
        replies=replies,
        judged=len(board.duels) - len(waiting),
        duels=len(board.duels),
    )


@router.post("/judge", dependencies=[CheckedForm])
def record(
    service: ServiceOf,
    who: VisitorOf,
    job_id: str,
    pair: Annotated[str, Form()],
    choice: Annotated[str, Form()],
) -> Response:
    """Keep a judgement and go on."""
    _, board, store = _opened(service, who, job_id)
    duel = next((duel for duel in board.duels if duel.key == pair), None)
    if duel is None:
        raise RequestError("No such pair; the job was evaluated anew, so reload the page", status=404)
    left: Choice = "first" if first_stands_left(who.owner, duel, store.seed) else "second"
    right: Choice = "second" if left == "first" else "first"
    choices: dict[str, Choice] = {"left": left, "right": right, "tie": "tie", "bad": "both bad"}
    if choice not in choices:
        raise RequestError(f"choice: {choice} is none of {', '.join(choices)}")
    store.record(who.owner, duel, choices[choice])
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


def _waiting(who: Visitor, board: Board, store: Store) -> list[Duel]:
    """The pairs that are left for this rater, in their order."""
    made = {(each.row, each.first, each.second) for each in store.judgements(who.owner)}
    return [duel for duel in order_for(who.owner, board, store.seed) if (duel.row, duel.first, duel.second) not in made]
