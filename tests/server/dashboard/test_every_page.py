"""Every page of the dashboard in a browser, in every state worth a look: accessible, fitting, quiet, by keyboard."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import msgspec
import pytest
import uvicorn
from fastapi.testclient import TestClient
from playwright.sync_api import Page, expect
from running_server import ticket_rows

from tunesmith.evaluation.result import Evaluation, Sample
from tunesmith.run_folder import RunFolder
from tunesmith.server import files
from tunesmith.server.auth import create_key
from tunesmith.server.store import Store
from tunesmith.training.events import EndEvent, Event, StartEvent, StepEvent, VerdictEvent

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
SPEC = "model: embedded\ndata: {train: tickets.jsonl}\noutput: runs/x\n"
OVERFITTED = VerdictEvent(20, "overfitting", "warn", "Validation loss rises.", "Stop early.")

Make = Callable[..., TestClient]


class Dashboard:
    """A server on loopback over things in every state, and nobody at work on them."""

    def __init__(self, client: TestClient, store: Store, root: Path) -> None:
        self.store, self.root = store, root
        self.key = create_key(store, "looker")
        self.server = uvicorn.Server(uvicorn.Config(client.app, port=0, log_level="error"))
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}/dashboard"
        self.settings = client.app.state.service.settings  # type: ignore[attr-defined]
        self.file = self.upload(f"{'long-name-' * 12}.jsonl", ticket_rows(60))

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join()

    def upload(self, name: str, rows: bytes) -> str:
        kept = files.add_upload(
            self.settings, self.store, "looker", filename=name, purpose=files.PURPOSE, stream=BytesIO(rows)
        )
        return kept.id

    def job(self, *states: str, events: list[Event] | None = None, **changes: object) -> str:
        job = self.store.add_job(
            "looker",
            model="embedded",
            training_file=self.file,
            validation_file=None,
            suffix="seen",
            seed=1,
            method={"type": "supervised"},
            hyperparameters={},
            metadata={"note": HOSTILE},
        )
        for state in states:
            last = changes if state == states[-1] else {}
            self.store.move_job(job.id, state, **last)  # type: ignore[arg-type]
        if events is not None:
            write(RunFolder(self.root / "jobs" / job.id / "run"), events)
        return job.id


def write(run: RunFolder, events: list[Event]) -> None:
    run.root.mkdir(parents=True, exist_ok=True)
    run.spec.write_text(SPEC)
    run.events.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))


def trained(steps: int) -> list[Event]:
    start = StartEvent(0, 40, 60, 6, 100, 1000, 0, 0.0, "embedded", "fp32", 1.7e9)
    return [start, *(StepEvent(step, 3 / step, 1e-4, 1.0, 10, 5, 0.1, 0.5) for step in range(1, steps + 1))]


def evaluate(run: RunFolder) -> None:
    samples = tuple(Sample(row, f"{HOSTILE} {row}", "yes", f"no {row}", HOSTILE) for row in range(3))
    evaluation = Evaluation("run", "data", 3, "classification", (), (), samples, 1.0)
    run.evaluation.write_bytes(msgspec.json.encode(evaluation))


@pytest.fixture
def dashboard(make_app: Make, store: Store, tmp_path: Path) -> Iterator[Dashboard]:
    (tmp_path / "runs").mkdir()
    made = Dashboard(make_app(runs_dir=tmp_path / "runs"), store, tmp_path)
    yield made
    made.stop()


@pytest.fixture
def tab(page: Page, dashboard: Dashboard) -> Iterator[Page]:
    """A tab that is signed in; a console that is not empty fails the test."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.set_default_timeout(30_000)
    expect.set_options(timeout=30_000)
    page.goto(dashboard.url)
    page.get_by_label("API key").fill(dashboard.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    yield page
    assert said == []


@pytest.mark.slow
def test_every_page_is_accessible_and_fits(
    tab: Page, dashboard: Dashboard, assert_fit_to_show: Callable[[Page], None]
) -> None:
    said = {"code": "invalid_training_file", "message": f"x.jsonl:1:2: {HOSTILE}", "param": "training_file"}
    done = dashboard.job("queued", "running", "succeeded", events=[*trained(40), EndEvent(40)])
    evaluate(RunFolder(dashboard.root / "jobs" / done / "run"))
    jobs = [
        dashboard.job(),
        dashboard.job("queued", "running", events=[*trained(20), OVERFITTED]),
        dashboard.job("queued", "running", "paused"),
        dashboard.job("failed", error=said),
        done,
    ]
    write(RunFolder(dashboard.root / "runs" / f"{'long-name-' * 12}"), [*trained(40), EndEvent(40)])
    write(RunFolder(dashboard.root / "runs" / "one"), trained(1))
    (dashboard.root / "runs" / "one" / "spec.yaml").write_text("broken")
    paths = ["", "/runs", "/files", "/playground", f"/jobs/new?file={dashboard.file}", f"/files/{dashboard.file}"]
    paths += [f"/jobs/{job}" for job in jobs] + [f"/runs/{'long-name-' * 12}", "/runs/one"]
    for path in [*paths, f"/jobs/{done}/judge", f"/jobs/{done}/judgements"]:
        tab.goto(f"{dashboard.url}{path}")
        expect(tab.locator(".loading")).to_have_count(0)
        assert_fit_to_show(tab)
        assert "owned" not in tab.title()
    tab.get_by_role("link", name="API", exact=True).click()
    tab.locator("summary").first.click()
    expect(tab.get_by_role("cell", name="purpose")).to_be_visible()
    assert_fit_to_show(tab)
    tab.get_by_role("link", name="Dashboard").click()
    expect(tab.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()


def test_without_anything_each_page_says_what_to_do(
    page: Page, make_app: Make, store: Store, tmp_path: Path, assert_fit_to_show: Callable[[Page], None]
) -> None:
    empty = Dashboard(make_app(runs_dir=tmp_path / "runs"), store, tmp_path)
    empty.key = create_key(store, "newcomer")
    page.goto(empty.url)
    assert_fit_to_show(page)
    page.get_by_label("API key").fill(empty.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    for path, said in (("", "No jobs yet"), ("/runs", "No runs yet"), ("/jobs/new", "First, a file")):
        page.goto(f"{empty.url}{path}")
        expect(page.get_by_role("heading", name=said)).to_be_visible()
        assert_fit_to_show(page)
    for path in ("/jobs/ftjob-none", "/runs/none", "/files/file-none", "/nowhere"):
        page.goto(f"{empty.url}{path}")
        expect(page.get_by_role("heading", name="Not found")).to_be_visible()
        expect(page.get_by_role("navigation", name="Dashboard")).to_be_visible()  # one is not lost there
    empty.stop()


def test_the_focus_goes_from_top_to_bottom_and_is_seen(tab: Page, dashboard: Dashboard) -> None:
    tab.goto(f"{dashboard.url}/jobs/new?file={dashboard.file}")
    expect(tab.locator("#preview tr.chosen")).to_be_visible()
    seen = []
    for _ in range(18):
        tab.keyboard.press("Tab")
        seen.append(
            tab.evaluate(
                """() => {
                    const at = document.activeElement, style = getComputedStyle(at);
                    const name = at.labels?.[0]?.textContent || at.getAttribute("aria-label") || at.textContent;
                    return [name.trim(), style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
                }"""
            )
        )
    assert [name for name, _ in seen] == [
        *("Skip to the content", "Tunesmith", "Jobs", "Runs", "Files", "Playground", "API", "Sign out"),
        *("Training file", "Validation file", "Base model", "Method", "Name", "Plan for"),
        *("Hyperparameters", "Start the job", "Upload another file", "Memory by method"),
    ]
    assert all(visible for _, visible in seen)
    tab.goto(dashboard.url)
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"


def test_a_run_is_watched_from_its_first_step_to_its_report(tab: Page, dashboard: Dashboard) -> None:
    """The page is not reloaded: curves, verdict marks and the report come by server-sent events."""
    run = RunFolder(dashboard.root / "runs" / "now")
    write(run, trained(1))
    tab.goto(f"{dashboard.url}/runs")
    tab.get_by_role("link", name="now").click()
    expect(tab.get_by_text("The curve begins with the second step.")).to_be_visible()
    write(run, trained(20))
    chart = tab.locator("#chart")
    expect(chart).to_have_attribute("aria-label", re.compile(r"Step 20 of 40: training loss \d"))
    write(run, [*trained(30), OVERFITTED])
    expect(chart).to_have_attribute("aria-label", re.compile(r"Step 20: Validation loss rises\."))
    expect(tab.get_by_role("heading", name="Validation loss rises.")).to_be_visible()
    expect(tab.get_by_text("step 30 of 40")).to_be_visible()
    write(run, [*trained(40), OVERFITTED, EndEvent(40)])
    expect(tab.locator("#job-state")).to_have_text("finished")
    expect(tab.get_by_role("heading", name="Make it again")).to_be_visible()
    expect(tab.locator("#live")).to_be_hidden()


def test_what_others_wrote_stays_text(tab: Page, dashboard: Dashboard) -> None:
    rows = [{"prompt": f"{HOSTILE} {row}", "completion": f"{HOSTILE} {row % 3}"} for row in range(60)]
    name = "<img src=x onerror=alert(1)>.jsonl"
    file = dashboard.upload(name, "".join(json.dumps(row) + "\n" for row in rows).encode())
    job = dashboard.job("queued", "running", "succeeded", events=[*trained(40), EndEvent(40)])
    evaluate(RunFolder(dashboard.root / "jobs" / job / "run"))
    write(RunFolder(dashboard.root / "runs" / name), [*trained(20), OVERFITTED])
    for path in ("/files", f"/files/{file}", "/runs", f"/jobs/{job}", f"/jobs/{job}/judge", f"/jobs/new?file={file}"):
        tab.goto(f"{dashboard.url}{path}")
        expect(tab.locator(".loading")).to_have_count(0)
        expect(tab.locator("img:not([src='/dashboard/static/icon.svg'])")).to_have_count(0)
        assert "owned" not in tab.title()


def test_a_list_of_many_jobs_comes_in_pages(tab: Page, dashboard: Dashboard) -> None:
    for _ in range(45):
        dashboard.job("cancelled")
    tab.goto(dashboard.url)
    seen = set()
    for page in range(3):
        links = tab.locator("table.jobs th a")
        expect(links).to_have_count(20 if page < 2 else 5)
        seen |= {link.get_attribute("href") for link in links.all()}
        if page < 2:
            tab.get_by_role("link", name="Older").click()
            tab.wait_for_url(re.compile("after="))
            expect(links.first).not_to_have_attribute("href", sorted(seen)[0] or "")
    assert len(seen) == 45
