"""The page on which people judge: one pair at a time, by keyboard, models and order hidden.

Served on the loopback interface only, to whoever has the session's token: the first visit brings it in the URL and
takes it away as a cookie. Plain forms, so that it works without script; the script adds keys. A strict content
security policy and autoescaped templates keep whatever a model said from being more than text.
"""

import secrets
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, Literal
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from tunesmith.assets import stylesheet
from tunesmith.evaluation.human.duels import Board
from tunesmith.evaluation.human.judging import judge, progress
from tunesmith.evaluation.human.results import HumanResults, summarize
from tunesmith.evaluation.human.store import Store

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

LONGEST_NAME = 60

SHEETS: tuple[Literal["style", "controls"], ...] = ("style", "controls")
"""The CSS of every page; beside it, from `static`, that of this one, and its script."""

STATIC = {"judge.css": "text/css", "judge.js": "text/javascript"}


def make_app(run: str, board: Board, store: Store, token: str) -> Starlette:
    """The application; every request needs `token`, once as a query parameter, then as a cookie."""
    page = _Page(run, board, store)
    guard = _Guard(token)
    routes = [
        Route("/", guard(page.welcome)),
        Route("/rater", guard(page.sign_in), methods=["POST"]),
        Route("/judge/{rater:path}", guard(page.judge)),
        Route("/judge/{rater:path}", guard(page.record), methods=["POST"]),
        Route("/results", guard(page.results)),
        *(Route(f"/{name}.css", _fixed(stylesheet(name), "text/css")) for name in SHEETS),
        *(Route(f"/{name}", _fixed(static(name), kind)) for name, kind in STATIC.items()),
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


Handler = Callable[[Request], Awaitable[Response]]


class _Guard:
    """Lets nobody in without the token, and no form in from another site."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            cookie = f"tunesmith_compare_{request.url.port}"  # cookies do not tell ports apart
            given = request.query_params.get("token", "")
            if given and secrets.compare_digest(given.encode(), self._token.encode()):
                response: Response = RedirectResponse(request.url.path, status_code=303)
                response.set_cookie(cookie, self._token, httponly=True, samesite="strict")
            elif not secrets.compare_digest(request.cookies.get(cookie, "").encode(), self._token.encode()):
                response = PlainTextResponse("Open the address that tunesmith compare printed.", status_code=403)
            elif request.method == "POST" and not _same_origin(request):
                response = PlainTextResponse("This form was sent from another site.", status_code=403)
            else:
                response = await handler(request)
            response.headers.update(HEADERS)
            return response

        return guarded


class _Page:
    """The handlers, over one board and one store."""

    def __init__(self, run: str, board: Board, store: Store) -> None:
        self._run = run
        self._board = board
        self._store = store
        self._templates = Environment(
            loader=PackageLoader("tunesmith.evaluation.human"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        self._templates.filters["path"] = lambda text: quote(text, safe="")

    async def welcome(self, request: Request) -> Response:
        """Asks who is judging."""
        raters = summarize(self._run, self._board, self._store.judgements()).raters
        return self._render("welcome.html.j2", raters=raters, duels=len(self._board.duels))

    async def sign_in(self, request: Request) -> Response:
        """Sends a rater to their pairs."""
        form = await request.form()
        name = " ".join(str(form.get("rater", "")).split())[:LONGEST_NAME]
        return RedirectResponse(f"/judge/{quote(name, safe='')}" if name else "/", status_code=303)

    async def judge(self, request: Request) -> Response:
        """Shows the rater's next pair, or the one asked for; the end, when all are judged."""
        rater = request.path_params["rater"]
        found = progress(self._board, self._store, rater, request.query_params.get("pair"))
        if found.turn is None:
            return self._render("done.html.j2", rater=rater, duels=found.duels)
        return self._render("judge.html.j2", rater=rater, progress=found)

    async def record(self, request: Request) -> Response:
        """Keeps a judgement and goes on."""
        rater = request.path_params["rater"]
        form = await request.form()
        pair, side, note, seconds = (str(form.get(name, "")) for name in ("pair", "choice", "note", "seconds"))
        if not judge(self._board, self._store, rater, pair=pair, side=side, note=note, seconds=seconds):
            return PlainTextResponse("No such pair or choice; go back and choose again.", status_code=400)
        return RedirectResponse(f"/judge/{quote(rater, safe='')}", status_code=303)

    async def results(self, request: Request) -> Response:
        """What the judgements say so far, models named."""
        results: HumanResults = summarize(self._run, self._board, self._store.judgements())
        return self._render("results.html.j2", results=results)

    def _render(self, template: str, **values: Any) -> HTMLResponse:
        return HTMLResponse(self._templates.get_template(template).render(run=self._run, **values))


def static(name: str) -> str:
    """The text of one of `STATIC`."""
    return files("tunesmith.evaluation.human").joinpath("static", name).read_text(encoding="utf-8")


def _fixed(content: str, kind: str) -> Handler:
    async def serve(request: Request) -> Response:
        return Response(content, media_type=kind, headers={"X-Content-Type-Options": "nosniff"})

    return serve


def _same_origin(request: Request) -> bool:
    origin = request.headers.get("origin")
    # A page with `no-referrer` sends "null" for its own forms; browsers say the rest in Sec-Fetch-Site.
    if request.headers.get("sec-fetch-site") in ("same-origin", "none"):
        return True
    return origin == f"{request.url.scheme}://{request.url.netloc}"
