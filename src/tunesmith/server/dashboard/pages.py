"""Rendering: autoescaped templates, a content security policy without inline anything, and the static files."""

import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastapi import Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, PrefixLoader, StrictUndefined

from tunesmith.assets import stylesheet
from tunesmith.evaluation.human import page as judging
from tunesmith.planning.figures import compact, duration, size
from tunesmith.report.pages import STATUS_MARKS, STATUS_WORDS, figure, measure
from tunesmith.server.errors import RequestError
from tunesmith.server.states import TERMINAL

if TYPE_CHECKING:
    from tunesmith.server.dashboard.access import Visitor

FOLDER = Path(__file__).parent

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}

REPORT_HEADERS = HEADERS | {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
}
"""A report is one file that works anywhere, so its stylesheet is inside it; it has no script."""

ASSETS = {
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
    "watch.js": "text/javascript",
    "playground.js": "text/javascript",
    "style.css": "text/css",
    "controls.css": "text/css",
    "judge.css": "text/css",
    "judge.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "htmx.js": "text/javascript",
    "uplot.js": "text/javascript",
    "uplot.css": "text/css",
}

SHEETS: dict[str, Literal["style", "controls"]] = {"style.css": "style", "controls.css": "controls"}
"""What every page shares, the reports too."""

VENDORED = {"htmx.js": "htmx.min.js", "uplot.js": "uplot.min.js", "uplot.css": "uplot.min.css"}

JOB_WORDS = {
    "validating_files": "checking files",
    "queued": "queued",
    "running": "running",
    "paused": "paused",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}
"""A job's state in words."""


def page(
    template: str, request: Request, who: "Visitor | None", *, status: int = 200, **values: object
) -> HTMLResponse:
    """A page, or a piece of one, for `who` (None: nobody is signed in)."""
    return HTMLResponse(part(template, who=who, path=request.url.path, **values), status, HEADERS)


def part(template: str, **values: object) -> str:
    """The text of a template."""
    return _environment().get_template(template).render(**values)


def asset(name: str) -> Response:
    """A static file. Raises RequestError 404."""
    if name not in ASSETS:
        raise RequestError(f"There is no file {name}", status=404)
    headers = {"Cache-Control": "no-cache"}
    if name in SHEETS:
        return Response(stylesheet(SHEETS[name]), media_type=ASSETS[name], headers=headers)
    if name in judging.STATIC:
        return Response(judging.static(name), media_type=ASSETS[name], headers=headers)
    folder = FOLDER / "static"
    path = folder / "vendor" / VENDORED[name] if name in VENDORED else folder / name
    return FileResponse(path, media_type=ASSETS[name], headers=headers)


def moment(then: float) -> str:
    """A time (in Unix seconds) by day and minute."""
    return time.strftime("%-d %b %Y, %H:%M", time.localtime(then))


def clock(then: float) -> str:
    """A time of day."""
    return time.strftime("%H:%M:%S", time.localtime(then))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=ChoiceLoader(
            [
                FileSystemLoader(FOLDER / "templates"),
                PrefixLoader({"human": PackageLoader("tunesmith.evaluation.human")}),
            ]
        ),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "clock": clock,
        "compact": compact,
        "duration": duration,
        "figure": figure,
        "measure": measure,
        "moment": moment,
        "size": size,
    }
    environment.globals |= {
        "status_words": STATUS_WORDS,
        "status_marks": STATUS_MARKS,
        "job_words": JOB_WORDS,
        "terminal": TERMINAL,
    }
    return environment
