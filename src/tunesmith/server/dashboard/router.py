"""All of the dashboard as one router, and what answers a path under it that does not exist."""

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response

from tunesmith.server.dashboard import files, jobs, judging, new_job, playground, runs, sign_in, watch
from tunesmith.server.dashboard.access import HOME, PageRoute, VisitorOf
from tunesmith.server.dashboard.pages import asset
from tunesmith.server.errors import RequestError

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/")
def root() -> RedirectResponse:
    """A person who types the server's address wants the dashboard."""
    return RedirectResponse(HOME, 303)


@router.get(HOME + "/static/{name}")
def static(name: str) -> Response:
    """A script, a stylesheet or the icon. Raises RequestError 404."""
    return asset(name)


for part in (sign_in, new_job, watch, judging, jobs, runs, files, playground):
    router.include_router(part.router)


@router.get(HOME + "/{path:path}")
def missing(_who: VisitorOf, path: str) -> Response:
    """Any other path."""
    raise RequestError(f"There is no page {HOME}/{path}", status=404)
