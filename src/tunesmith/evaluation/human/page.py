"""The page on which people judge: one pair at a time, by keyboard, models and order hidden.

Served on the loopback interface only, to whoever has the session's token: the first visit brings it in the URL and
takes it away as a cookie. Plain forms, so that it works without script; the script adds keys. A strict content
security policy and autoescaped templates keep whatever a model said from being more than text.
"""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from tunesmith.evaluation.human.duels import Board, Duel, first_stands_left, order_for
from tunesmith.evaluation.human.results import HumanResults, summarize
from tunesmith.evaluation.human.store import Choice, Judgement, Store

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

LONGEST_NAME, LONGEST_NOTE = 60, 2000
LONGEST_SECONDS = 3600.0
"""A rater who took longer went away."""

ASSETS = {"compare.css": "text/css", "compare.js": "text/javascript"}


@dataclass(frozen=True)
class Shown:
    """A duel as a rater sees it: `left` and `right` are replies; `judged` what they chose before, by side."""

    duel: Duel
    left: str
    right: str
    judged: str
    note: str


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
        *(Route(f"/{name}", _asset(name)) for name in ASSETS),
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
        self._seed = store.seed
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
        made = self._made_by(rater)
        order = order_for(rater, self._board, self._seed)
        asked = request.query_params.get("pair")
        waiting = [duel for duel in order if duel.key not in made]
        duel = next((duel for duel in order if duel.key == asked), waiting[0] if waiting else None)
        if duel is None:
            return self._render("done.html.j2", rater=rater, duels=len(order))
        before = [each for each in order if each.key in made and each.key != duel.key]
        latest = max(before, key=lambda each: made[each.key].judged_at, default=None)
        return self._render(
            "judge.html.j2",
            rater=rater,
            shown=self._shown(rater, duel, made.get(duel.key)),
            judged=len(order) - len(waiting),
            duels=len(order),
            back=None if latest is None else latest.key,
        )

    async def record(self, request: Request) -> Response:
        """Keeps a judgement and goes on."""
        rater = request.path_params["rater"]
        form = await request.form()
        duel = next((duel for duel in self._board.duels if duel.key == form.get("pair")), None)
        left_first = duel is not None and first_stands_left(rater, duel, self._seed)
        choices: dict[str, Choice] = {
            "left": "first" if left_first else "second",
            "right": "second" if left_first else "first",
            "tie": "tie",
            "bad": "both bad",
        }
        choice = choices.get(str(form.get("choice")))
        if duel is None or choice is None:
            return PlainTextResponse("No such pair or choice; go back and choose again.", status_code=400)
        note = str(form.get("note", ""))[:LONGEST_NOTE]
        self._store.record(rater, duel, choice, note, _seconds(form.get("seconds")))
        return RedirectResponse(f"/judge/{quote(rater, safe='')}", status_code=303)

    async def results(self, request: Request) -> Response:
        """What the judgements say so far, models named."""
        results: HumanResults = summarize(self._run, self._board, self._store.judgements())
        return self._render("results.html.j2", results=results)

    def _made_by(self, rater: str) -> dict[str, Judgement]:
        """The rater's judgements by duel."""
        by_models = {(duel.row, duel.first, duel.second): duel.key for duel in self._board.duels}
        made = self._store.judgements(rater)
        found = ((by_models.get((each.row, each.first, each.second)), each) for each in made)
        return {key: each for key, each in found if key is not None}

    def _shown(self, rater: str, duel: Duel, made: Judgement | None) -> Shown:
        left_first = first_stands_left(rater, duel, self._seed)
        replies = (duel.first_reply, duel.second_reply)
        left, right = replies if left_first else replies[::-1]
        sides = {"first": "left" if left_first else "right", "second": "right" if left_first else "left"}
        judged = "" if made is None else sides.get(made.choice, "bad" if made.choice == "both bad" else "tie")
        return Shown(duel, left, right, judged, "" if made is None else made.note)

    def _render(self, template: str, **values: Any) -> HTMLResponse:
        return HTMLResponse(self._templates.get_template(template).render(run=self._run, **values))


def _asset(name: str) -> Handler:
    content = files("tunesmith.evaluation.human").joinpath("static", name).read_bytes()

    async def serve(request: Request) -> Response:
        return Response(content, media_type=ASSETS[name], headers={"X-Content-Type-Options": "nosniff"})

    return serve


def _same_origin(request: Request) -> bool:
    origin = request.headers.get("origin")
    # A page with `no-referrer` sends "null" for its own forms; browsers say the rest in Sec-Fetch-Site.
    if request.headers.get("sec-fetch-site") in ("same-origin", "none"):
        return True
    return origin == f"{request.url.scheme}://{request.url.netloc}"


def _seconds(given: Any) -> float:
    try:
        return min(max(float(given), 0.0), LONGEST_SECONDS)
    except (TypeError, ValueError):
        return 0.0
