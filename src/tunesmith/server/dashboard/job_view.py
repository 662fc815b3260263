"""What the pages say about a job: its run, and what its record has beside that."""

import time
from dataclasses import dataclass
from html import escape

from tunesmith.errors import TunesmithError
from tunesmith.report.html import run_part
from tunesmith.server import jobs
from tunesmith.server.dashboard.access import Visitor
from tunesmith.server.dashboard.pages import part
from tunesmith.server.dashboard.run_view import RunSummary, summarize_run
from tunesmith.server.errors import RequestError
from tunesmith.server.records import JobRecord
from tunesmith.server.service import Service
from tunesmith.server.states import TERMINAL, JobStatus, sources

ACTIONS: dict[str, frozenset[JobStatus]] = {
    "pause": sources("paused"),
    "resume": frozenset({"paused"}),
    "cancel": sources("cancelled"),
}
"""What a person can do to a job → the states in which it makes sense."""


@dataclass(frozen=True)
class JobSummary:
    """One line of the list, and the head of a job's page."""

    job: JobRecord
    name: str
    data: str
    run: RunSummary


def summarize(service: Service, job: JobRecord) -> JobSummary:
    """The job as far as it has come."""
    data = _file_name(service, job)
    run = summarize_run(jobs.job_folder(service, job).run)
    return JobSummary(job=job, name=job.suffix or data.split(".")[0], data=data, run=run)


def regions(service: Service, who: Visitor, job: JobRecord) -> dict[str, str]:
    """The pieces of a job's page that change while it is watched, as HTML by the id of their place."""
    run = summarize_run(jobs.job_folder(service, job).run)
    finish = jobs.estimated_finish(service, job)
    left = None if finish is None or run.step == run.total_steps else max(finish - time.time(), 1.0)
    events = [event for event in jobs.job_events(service, job) if event.type == "message"]
    evaluated = run.headline is not None
    actions = [action for action, states in ACTIONS.items() if job.status in states]
    over = job.status in TERMINAL
    return {
        "job-state": part("job_state.html.j2", job=job),
        "job-figures": part("job_figures.html.j2", run=run, job=job, left=left),
        "job-actions": part("job_actions.html.j2", job=job, actions=actions, token=who.token, evaluated=evaluated),
        "job-verdicts": part("live_verdicts.html.j2", run=run, over=over),
        "job-results": part("job_results.html.j2", job=job, report=_report(service, job)),
        "job-events": part("job_events.html.j2", events=events),
    }


def hide_folders(service: Service, job: JobRecord, text: str) -> str:
    """A page about a job without the server's own folder, which is nobody's business, nor that of a merged parent."""
    for folder in (service.settings.data_dir.absolute(), service.settings.data_dir):
        text = text.replace(f"{folder}/", "")
    return text.replace(f"jobs/{job.id}/{jobs.job_folder(service, job).base.name}", escape(job.model))


def _report(service: Service, job: JobRecord) -> str | None:
    """The run's report without a frame, once the job has ended; None when there is nothing to report."""
    run = jobs.job_folder(service, job).run
    if job.status not in TERMINAL or not run.spec.is_file():
        return None
    try:
        return hide_folders(service, job, run_part(run))
    except TunesmithError as error:
        return hide_folders(service, job, part("error_part.html.j2", message=str(error)))


def _file_name(service: Service, job: JobRecord) -> str:
    try:
        return service.store.get_file(job.owner, job.training_file).filename
    except RequestError:  # deleted since
        return job.training_file
