"""The runs of `tunesmith train` in the folder of `serve --runs`: the list, a run's page as it happens, its report.

They belong to whoever started the server, who shows them to everyone with a key. A run is found by looking through that
folder, never by making a path of a name.
"""

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from tunesmith.errors import TunesmithError
from tunesmith.report.html import run_part
from tunesmith.run_folder import RunFolder
from tunesmith.server.dashboard.access import HOME, PageRoute, ServiceOf, VisitorOf
from tunesmith.server.dashboard.pages import REPORT_HEADERS, page, part
from tunesmith.server.dashboard.run_view import RunSummary, curves, stamp, summarize_run
from tunesmith.server.dashboard.watch import News, event_stream
from tunesmith.server.errors import RequestError
from tunesmith.server.service import Service

router = APIRouter(prefix=f"{HOME}/runs", route_class=PageRoute)

SHOWN = 100
"""Runs in the list; older ones are still in their folders."""

SILENT_SECONDS = 900
"""A run that has written nothing for so long without an end was killed, or takes steps longer than any we know."""

RunState = Literal["queued", "running", "paused", "succeeded", "failed"]

STATE_WORDS: dict[RunState, str] = {
    "queued": "not begun",
    "running": "training",
    "paused": "interrupted",
    "succeeded": "finished",
    "failed": "failed",
}
"""A run has the lights of a job in the like state, and its own words."""


@dataclass(frozen=True)
class ListedRun:
    """One line of the list, and the head of a run's page. `data` and `method` are empty for a spec we cannot read."""

    name: str
    folder: RunFolder
    model: str
    data: str
    method: str
    state: RunState
    run: RunSummary

    @property
    def state_word(self) -> str:
        """The state, in words."""
        return STATE_WORDS[self.state]


@router.get("")
def list_runs(request: Request, service: ServiceOf, who: VisitorOf) -> Response:
    """All runs, the latest first."""
    folders = sorted(_folders(service).values(), key=lambda run: max(stamp(run.events), stamp(run.spec)), reverse=True)
    found = [_listed(folder) for folder in folders[:SHOWN]]
    shown = service.settings.runs_dir
    return page("runs.html.j2", request, who, runs=found, more=len(folders) - len(found), folder=shown)


@router.get("/{name}")
def show(request: Request, service: ServiceOf, who: VisitorOf, name: str) -> Response:
    """One run."""
    run = _find(service, name)
    over = run.state != "running"
    return page("run_page.html.j2", request, who, run=run, regions=_regions(run), over=over)


@router.get("/{name}/watch")
async def watch(request: Request, service: ServiceOf, _who: VisitorOf, name: str) -> Response:
    """The run as it happens, until it ends."""
    _find(service, name)
    return event_stream(request, lambda: _look(service, name))


@router.get("/{name}/report")
def report(service: ServiceOf, _who: VisitorOf, name: str) -> Response:
    """The run's report, as the file in its folder has it. Raises RequestError 404."""
    folder = _find(service, name).folder
    if not folder.report.is_file():
        raise RequestError("There is no report yet: it is written when training ends", status=404)
    return HTMLResponse(folder.report.read_text(encoding="utf-8"), headers=REPORT_HEADERS)


def _folders(service: Service) -> dict[str, RunFolder]:
    """The runs by the names of their folders; the parent of the folder may come into being later."""
    shown = service.settings.runs_dir
    if shown is None or not shown.is_dir():
        return {}
    return {path.name: RunFolder(path) for path in shown.iterdir() if (path / "spec.yaml").is_file()}


def _find(service: Service, name: str) -> ListedRun:
    folder = _folders(service).get(name)
    if folder is None:
        raise RequestError(f"No such run: {name}", status=404)
    return _listed(folder)


def _listed(folder: RunFolder) -> ListedRun:
    model, data, method = _spec(folder, stamp(folder.spec))
    run = summarize_run(folder)
    return ListedRun(folder.root.name, folder, model, data, method, _state(folder, run), run)


@lru_cache(maxsize=256)
def _spec(folder: RunFolder, _changed: tuple[int, int]) -> tuple[str, str, str]:
    """Model, data and method, in words."""
    try:
        spec = folder.load_spec()
    except TunesmithError:
        return "a spec that cannot be read", "", ""
    return spec.model, spec.data.train, f"{spec.adapter.kind}, {spec.objective.kind}"


def _state(folder: RunFolder, run: RunSummary) -> RunState:
    if run.begun is None:
        return "queued"
    if run.end is None:
        silent = time.time() - stamp(folder.events)[0] / 1e9
        return "running" if silent < SILENT_SECONDS else "paused"
    endings: dict[str, RunState] = {"interrupted": "paused", "failed": "failed"}
    return endings.get(run.end, "succeeded")


def _look(service: Service, name: str) -> News:
    run = _find(service, name)
    news = {"curves": msgspec.json.encode(curves(run.folder)), "regions": msgspec.json.encode(_regions(run))}
    return news, run.state != "running"


def _regions(run: ListedRun) -> dict[str, str]:
    """The pieces of a run's page that change while it is watched, as HTML by the id of their place."""
    over = run.state != "running"
    return {
        "job-state": part("run_state.html.j2", run=run),
        "job-figures": part("run_figures.html.j2", run=run.run, over=over),
        "job-verdicts": part("live_verdicts.html.j2", run=run.run, over=over),
        "job-results": part("run_results.html.j2", run=run, report=_report(run.folder)) if over else "",
    }


def _report(folder: RunFolder) -> str:
    """The report without a frame, or why there is none."""
    try:
        return str(run_part(folder))
    except TunesmithError as error:
        return part("error_part.html.j2", message=str(error))
