"""The pages without a browser: who is let in, what is refused, and what an error looks like."""

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from fastapi.testclient import TestClient
from running_server import ticket_rows

from tunesmith.evaluation.result import Evaluation, Sample
from tunesmith.run_folder import RunFolder
from tunesmith.server.auth import create_key
from tunesmith.server.dashboard.pages import ASSETS, FOLDER
from tunesmith.server.records import JobRecord
from tunesmith.server.store import Store
from tunesmith.training.events import EndEvent, StartEvent, StepEvent

MakeApp = Callable[..., TestClient]

START = StartEvent(0, 2, 8, 0, 1, 1, 0, 0.0, "embedded", "fp32", 1.7e9)
STEPS = [StepEvent(step, loss, 1e-4, 1.0, 10, 5, 0.1, 0.5) for step, loss in ((1, 2.5), (2, 2.0))]
EVENTS = b"".join(
    msgspec.json.encode(each) + b"\n" for each in (START, *STEPS, EndEvent(2, "finished", 2, 1.0))
).decode()
"""The log of a run of two steps."""

SPEC = "model: embedded\ndata: {train: tickets.jsonl}\noutput: runs/x\n"


@pytest.fixture
def visit(make_app: MakeApp, store: Store) -> TestClient:
    """A browser that is signed in as `tester`."""
    client = make_app()
    client.headers.pop("authorization")
    sign_in(client, create_key(store, "tester"))
    return client


def sign_in(client: TestClient, key: str) -> None:
    form = client.get("/dashboard/sign-in")
    answer = client.post("/dashboard/sign-in", data={"key": key, "token": token(form.text)}, follow_redirects=False)
    assert answer.status_code == 303


def token(page: str) -> str:
    """The token of the first form on a page."""
    found = re.search(r'name="token" value="(\w+)"', page)
    assert found is not None
    return found[1]


def upload(client: TestClient, name: str, body: bytes) -> str:
    """Upload a file and return its page."""
    given = token(client.get("/dashboard/files").text)
    answer = client.post("/dashboard/files", data={"token": given}, files={"file": (name, body)})
    return answer.text


def add_job(store: Store, owner: str) -> JobRecord:
    return store.add_job(
        owner,
        model="embedded",
        training_file="file-none",
        validation_file=None,
        suffix="mine",
        seed=1,
        method={"type": "supervised"},
        hyperparameters={},
        metadata={},
    )


def test_without_a_session_every_page_leads_to_the_sign_in(make_app: MakeApp) -> None:
    client = make_app()
    for path in ("", "/files", "/jobs/new", "/jobs/ftjob-x", "/playground"):
        answer = client.get(f"/dashboard{path}", follow_redirects=False)
        assert answer.status_code == 303
        assert answer.headers["location"] == f"/dashboard/sign-in?next=/dashboard{path}"
    assert client.get("/", follow_redirects=False).headers["location"] == "/dashboard"


def test_a_wrong_key_opens_nothing_and_is_not_repeated(make_app: MakeApp, tmp_path: Path) -> None:
    client = make_app()
    form = client.get("/dashboard/sign-in")
    answer = client.post("/dashboard/sign-in", data={"key": "sk-ts-12-secret", "token": token(form.text)})
    assert answer.status_code == 400
    assert "unknown or revoked" in answer.text
    assert "secret" not in answer.text
    assert "tunesmith_session" not in client.cookies
    assert '"action":"auth.refused"' in (tmp_path / "audit.jsonl").read_text()


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(make_app: MakeApp, store: Store) -> None:
    client = make_app()
    form = client.get("/dashboard/sign-in")
    data = {"key": create_key(store, "tester"), "token": token(form.text)}
    answer = client.post("/dashboard/sign-in", data=data, follow_redirects=False)
    cookie = next(line for line in answer.headers.get_list("set-cookie") if line.startswith("tunesmith_session"))
    assert {"HttpOnly", "SameSite=strict", "Path=/dashboard"} <= set(cookie.split("; "))


@pytest.mark.parametrize("place", ["https://elsewhere.example", "//elsewhere.example", "/v1/files"])
def test_signing_in_leads_nowhere_but_into_the_dashboard(make_app: MakeApp, store: Store, place: str) -> None:
    client = make_app()
    form = client.get("/dashboard/sign-in")
    data = {"key": create_key(store, "tester"), "token": token(form.text), "next": place}
    answer = client.post("/dashboard/sign-in", data=data, follow_redirects=False)
    assert answer.headers["location"] == "/dashboard"


@pytest.mark.parametrize(
    "path", ["/files", "/jobs", "/jobs/ftjob-x/cancel", "/files/file-x/delete", "/playground/reply", "/sign-out"]
)
def test_a_form_from_elsewhere_is_refused(visit: TestClient, path: str) -> None:
    data = {"token": "0" * 64, "model": "embedded", "messages": "[]"}
    assert visit.post(f"/dashboard{path}", data=data, follow_redirects=False).status_code == 403


def test_the_policy_allows_no_inline_script_and_no_page_has_one(visit: TestClient, store: Store) -> None:
    job = add_job(store, "tester")
    for path in ("", "/files", "/jobs/new", f"/jobs/{job.id}", "/playground", "/nowhere"):
        answer = visit.get(f"/dashboard{path}")
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=|<style", answer.text)
        assert re.findall(r'(?:src|href)="https?:', answer.text) == []


def test_somebody_elses_things_do_not_exist(visit: TestClient, store: Store) -> None:
    job = add_job(store, "other")
    for path in (f"/jobs/{job.id}", f"/jobs/{job.id}/watch", f"/jobs/{job.id}/report"):
        answer = visit.get(f"/dashboard{path}")
        assert answer.status_code == 404
        assert "No such fine tuning job" in answer.text
    assert job.id not in visit.get("/dashboard").text


def test_an_upload_is_checked_and_listed(visit: TestClient) -> None:
    page = upload(visit, "tickets.jsonl", ticket_rows(30))
    found = re.search(r"/dashboard/files/(file-\w+)/check", page)
    assert found is not None
    report = visit.get(f"/dashboard/files/{found[1]}/check").text
    assert "<b>30</b> rows" in report
    assert "tickets.jsonl:" in report
    assert found[1] not in report
    assert "tickets.jsonl" in visit.get("/dashboard/files").text


def test_a_broken_upload_is_told_with_its_line(visit: TestClient, tmp_path: Path) -> None:
    page = upload(visit, "broken.jsonl", b'{"messages": 3}\n')
    assert "broken.jsonl:1:14: $.messages" in page
    assert list((tmp_path / "files").iterdir()) == []


def test_names_are_shown_as_text(visit: TestClient) -> None:
    page = upload(visit, "<img src=x>.jsonl", ticket_rows(1))
    assert "&lt;img src=x&gt;.jsonl" in page
    assert "<img src=x>" not in page


def test_a_plan_shows_memory_and_cost(visit: TestClient) -> None:
    page = upload(visit, "tickets.jsonl", ticket_rows(30))
    file = re.search(r"file=(file-\w+)", page)
    assert file is not None
    plan = visit.get("/dashboard/jobs/plan", params={"file": file[1], "model": "embedded"}).text
    assert "QLoRA" in plan
    assert "<svg" in plan
    assert "Cost elsewhere" in plan


def test_a_wrong_hyperparameter_is_named_and_the_form_keeps_what_was_typed(visit: TestClient) -> None:
    page = upload(visit, "tickets.jsonl", ticket_rows(30))
    file = re.search(r"file=(file-\w+)", page)
    assert file is not None
    data = {"token": token(visit.get("/dashboard/files").text), "file": file[1], "suffix": "typed", "epochs": "many"}
    answer = visit.post("/dashboard/jobs", data=data)
    assert answer.status_code == 400
    assert "Epochs: many will not do" in answer.text
    assert 'value="typed"' in answer.text


def test_a_jobs_page_offers_what_its_state_allows(visit: TestClient, store: Store) -> None:
    job = add_job(store, "tester")
    page = visit.get(f"/dashboard/jobs/{job.id}").text
    assert f"/dashboard/jobs/{job.id}/cancel" in page
    assert f"/dashboard/jobs/{job.id}/pause" not in page
    assert f"/dashboard/jobs/{job.id}/resume" not in page  # its files are being checked; it goes on by itself
    early = visit.post(f"/dashboard/jobs/{job.id}/resume", data={"token": token(page)})
    assert early.status_code == 409
    visit.post(f"/dashboard/jobs/{job.id}/cancel", data={"token": token(page)})
    assert store.job(job.id).status == "cancelled"
    again = visit.post(f"/dashboard/jobs/{job.id}/cancel", data={"token": token(page)})
    assert again.status_code == 409
    assert "it is cancelled" in again.text


def test_a_report_names_the_model_that_a_job_goes_on_from_and_no_folder(
    visit: TestClient, store: Store, tmp_path: Path
) -> None:
    job = add_job(store, "tester")
    report = RunFolder(tmp_path / "jobs" / job.id / "run").report
    report.parent.mkdir(parents=True)
    report.write_text(f"<b>{tmp_path}/jobs/{job.id}/base</b> {tmp_path}/files/x.jsonl")
    page = visit.get(f"/dashboard/jobs/{job.id}/report").text
    assert page == f"<b>{job.model}</b> files/x.jsonl"


def test_reinforcement_asks_for_a_reward_and_keeps_what_was_typed(visit: TestClient) -> None:
    page = upload(visit, "tickets.jsonl", ticket_rows(30))
    file = re.search(r"file=(file-\w+)", page)
    assert file is not None
    data = {
        "token": token(visit.get("/dashboard/files").text),
        "file": file[1],
        "method": "reinforcement",
        "reward": "fuzzy_match",
        "reference": "{{env.HOME}}",
    }
    answer = visit.post("/dashboard/jobs", data=data)
    assert answer.status_code == 400
    assert "Reference: {{env.HOME}} is none of" in answer.text
    assert 'value="fuzzy_match" selected' in answer.text


def test_the_runs_of_a_folder_are_listed_and_shown(make_app: MakeApp, store: Store, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    visit = make_app(runs_dir=runs)
    sign_in(visit, create_key(store, "tester"))
    assert "No runs yet" in visit.get("/dashboard/runs").text
    done, broken = runs / "tickets & co", runs / "broken"
    for folder in (done, broken):
        folder.mkdir(parents=True)
        (folder / "spec.yaml").write_text(SPEC)
        (folder / "events.jsonl").write_text(EVENTS)
    (broken / "spec.yaml").write_text("nothing: here\n")
    (runs / "no run").mkdir()
    listed = visit.get("/dashboard/runs").text
    assert listed.count("/dashboard/runs/") == 2
    assert "tickets &amp; co" in listed
    assert "finished" in listed
    assert "a spec that cannot be read" in listed
    page = visit.get("/dashboard/runs/tickets%20&%20co").text
    assert "lora, sft" in page
    assert "tunesmith train" in page  # the report, which says how to make the run again
    assert "data-watch" not in page
    assert visit.get("/dashboard/runs/broken").status_code == 200
    for name in ("no%20run", "%2e%2e%2fruns%2fbroken", "nothing"):
        assert visit.get(f"/dashboard/runs/{name}").status_code == 404


def test_a_run_under_way_is_watched(make_app: MakeApp, store: Store, tmp_path: Path) -> None:
    visit = make_app(runs_dir=tmp_path / "runs")
    sign_in(visit, create_key(store, "tester"))
    run = RunFolder(tmp_path / "runs" / "now")
    run.root.mkdir(parents=True)
    run.spec.write_text(SPEC)
    run.events.write_text(EVENTS.replace('"end"', '"broken"'))
    page = visit.get("/dashboard/runs/now").text
    assert 'data-watch="/dashboard/runs/now/watch"' in page
    assert "step 2 of 2" in page
    run.events.write_text(EVENTS)
    answer = visit.get("/dashboard/runs/now/watch")
    assert re.findall(r"^event: (\w+)$", answer.text, re.MULTILINE) == ["curves", "regions", "end"]
    assert '"training":[2.5,2.0]' in answer.text


def test_runs_need_a_session(make_app: MakeApp) -> None:
    client = make_app()
    for path in ("/runs", "/runs/x", "/runs/x/watch", "/runs/x/report"):
        assert client.get(f"/dashboard{path}", follow_redirects=False).status_code == 303


def test_an_unchanged_list_is_not_sent_again(visit: TestClient, store: Store) -> None:
    add_job(store, "tester")
    version = re.search(r"version=(\w+)", visit.get("/dashboard").text)
    assert version is not None
    assert visit.get(f"/dashboard/jobs/table?version={version[1]}").status_code == 204
    add_job(store, "tester")
    assert visit.get(f"/dashboard/jobs/table?version={version[1]}").status_code == 200


def test_watching_a_job_that_is_over_ends_at_once(visit: TestClient, store: Store) -> None:
    job = add_job(store, "tester")
    store.move_job(job.id, "cancelled")
    answer = visit.get(f"/dashboard/jobs/{job.id}/watch")
    assert answer.headers["content-type"].startswith("text/event-stream")
    names = re.findall(r"^event: (\w+)$", answer.text, re.MULTILINE)
    assert names == ["curves", "regions", "end"]


def test_people_judge_blind_and_then_see_who_won(visit: TestClient, store: Store, tmp_path: Path) -> None:
    job = add_job(store, "tester")
    run = RunFolder(tmp_path / "jobs" / job.id / "run")
    run.root.mkdir(parents=True)
    samples = tuple(Sample(row, f"prompt {row}", "yes", f"base {row}", f"tuned {row}") for row in range(3))
    evaluation = Evaluation("run", "data", 3, "classification", (), (), samples, 1.0)
    run.evaluation.write_bytes(msgspec.json.encode(evaluation))
    page = visit.get(f"/dashboard/jobs/{job.id}/judge").text
    for judged in range(1, 4):
        left = re.search(r'id="left">Left</h2>\s*<p class="lines">(base|tuned) \d</p>', page)
        pair = re.search(r'name="pair" value="(\w+)"', page)
        assert left is not None
        assert pair is not None
        data = {"token": token(page), "pair": pair[1], "choice": "left" if left[1] == "tuned" else "right"}
        page = visit.post(f"/dashboard/jobs/{job.id}/judge", data=data).text
        assert f"<b>{judged}</b> of <b>3</b> judged" in page
    assert "All pairs judged" in page
    results = visit.get(f"/dashboard/jobs/{job.id}/judgements").text
    assert "<b>tuned</b> was preferred in <b>100%</b>" in results


def test_every_static_file_is_there_and_no_other(visit: TestClient) -> None:
    for name, kind in ASSETS.items():
        answer = visit.get(f"/dashboard/static/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
    for name in ("../session.py", "vendor/README.md", "nothing.js"):
        assert visit.get(f"/dashboard/static/{name}").status_code == 404


def test_vendored_libraries_have_their_licence_beside_them() -> None:
    vendored = FOLDER / "static" / "vendor"
    for library in ("htmx", "uplot"):
        assert (vendored / f"{library}.LICENSE").stat().st_size > 0
