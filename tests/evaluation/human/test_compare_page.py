"""The page in a real browser: judged by keyboard and by mouse, blind, resumable, and closed to strangers."""

import threading
import time
from collections.abc import Callable, Iterator

import httpx
import msgspec
import pytest
import uvicorn
from evaluated_run import MakeRun
from playwright.sync_api import Page, expect

from tunesmith.evaluation.human.duels import make_board
from tunesmith.evaluation.human.page import make_app
from tunesmith.evaluation.human.store import Store
from tunesmith.evaluation.result import Evaluation
from tunesmith.run_folder import RunFolder

TOKEN = "the-session-token"
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"

Serve = Callable[[RunFolder], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves a run's page and gives its address, without the token."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(run: RunFolder) -> str:
        app = make_app("tickets", make_board([run]), Store(run.human), TOKEN)
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join()


def sign_in(page: Page, address: str, rater: str = "Ann") -> None:
    page.goto(f"{address}/?token={TOKEN}")
    page.get_by_label("Your name").fill(rater)
    page.keyboard.press("Enter")
    page.wait_for_url("**/judge/**")


def await_text(page: Page, text: str) -> None:
    """Waits for a page that says `text`, and until its script runs: keys pressed earlier would be lost."""
    expect(page.get_by_text(text)).to_be_visible()
    page.wait_for_load_state()


def choices(run: RunFolder, rater: str) -> list[str]:
    """What each judgement preferred, by the model's name."""
    return [
        {"first": each.first, "second": each.second}.get(each.choice, each.choice)
        for each in Store(run.human).judgements(rater)
    ]


def test_all_pairs_can_be_judged_by_keyboard_alone(page: Page, serve: Serve, make_run: MakeRun) -> None:
    run = make_run(rows=4)
    sign_in(page, serve(run))
    preferred = []
    for judged, key in enumerate(("1", "2", "3", "4")):
        await_text(page, f"{judged} of 4 judged")
        left = "base" if "base says" in page.get_by_role("region", name="Left").inner_text() else "tuned"
        right = "tuned" if left == "base" else "base"
        preferred.append({"1": left, "2": right, "3": "tie", "4": "both bad"}[key])
        page.keyboard.press(key)
    await_text(page, "All 4 pairs judged")
    assert choices(run, "Ann") == preferred
    assert all(each.seconds > 0 for each in Store(run.human).judgements())


def test_nothing_on_the_page_names_the_models(page: Page, serve: Serve, make_run: MakeRun) -> None:
    run = make_run(rows=1, tuned="this one says")
    evaluation = msgspec.json.decode(run.evaluation.read_bytes(), type=Evaluation)
    neutral = (msgspec.structs.replace(evaluation.samples[0], base="A reply", tuned="Another reply"),)
    run.evaluation.write_bytes(msgspec.json.encode(msgspec.structs.replace(evaluation, samples=neutral)))
    sign_in(page, serve(run))
    source = page.content().casefold()
    assert "another reply" in source
    assert "tuned" not in source
    assert "base" not in source


def test_a_rater_stops_and_goes_on_where_they_were_and_may_change_the_last_one(
    page: Page, serve: Serve, make_run: MakeRun
) -> None:
    run = make_run(rows=3)
    address = serve(run)
    sign_in(page, address)
    page.keyboard.press("3")
    await_text(page, "1 of 3 judged")
    sign_in(page, address)
    await_text(page, "1 of 3 judged")
    page.keyboard.press("u")
    expect(page.locator("button.chosen")).to_have_text("3 Equally good")
    page.get_by_role("button", name="Both bad").click()
    await_text(page, "1 of 3 judged")
    assert choices(run, "Ann") == ["both bad"]


def test_a_note_is_written_without_its_letters_judging(page: Page, serve: Serve, make_run: MakeRun) -> None:
    run = make_run(rows=2)
    sign_in(page, serve(run))
    page.keyboard.press("n")
    page.keyboard.type("12 of them are nearly right")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    await_text(page, "1 of 2 judged")
    assert [each.note for each in Store(run.human).judgements()] == ["12 of them are nearly right"]


def test_results_name_the_models_and_the_raters_agreement(page: Page, serve: Serve, make_run: MakeRun) -> None:
    run = make_run(rows=2, prompted=True)
    address = serve(run)
    for rater in ("Ann", "Bob"):
        sign_in(page, address, rater)
        for judged in range(6):
            await_text(page, f"{judged} of 6 judged")
            left = page.get_by_role("region", name="Left").inner_text()
            right = page.get_by_role("region", name="Right").inner_text()
            worth = {"base": 0, "prompted": 1, "tuned": 2}
            better = max((left, right), key=lambda text: next(v for k, v in worth.items() if f"{k} says" in text))
            page.keyboard.press("1" if better == left else "2")
        await_text(page, "All 6 pairs judged")
    page.get_by_role("link", name="See the results").click()
    expect(page.get_by_role("heading", name="tuned against base", exact=True)).to_be_visible()
    expect(page.get_by_text("sign test p = 0.12").first).to_be_visible()
    expect(page.get_by_text("alpha 1.00")).to_be_visible()
    strongest = page.locator("section", has=page.get_by_role("heading", name="Strength")).locator("th").first
    expect(strongest).to_have_text("tuned")


def test_what_a_model_said_stays_text(page: Page, serve: Serve, make_run: MakeRun) -> None:
    sign_in(page, serve(make_run(rows=1, tuned=HOSTILE)), rater="<b>Ann</b>")
    expect(page.get_by_text("<script>document.title")).to_be_visible()
    assert "owned" not in page.title()
    assert page.locator("img").count() == 0


def test_the_page_works_without_script(browser: object, serve: Serve, make_run: MakeRun) -> None:
    run = make_run(rows=1)
    context = browser.new_context(java_script_enabled=False)  # type: ignore[attr-defined]
    tab = context.new_page()
    sign_in(tab, serve(run))
    tab.get_by_role("button", name="Left is better").click()
    expect(tab.get_by_text("All 1 pairs judged")).to_be_visible()
    context.close()
    assert len(choices(run, "Ann")) == 1


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_runs_over_the_side_and_targets_are_large_enough(
    page: Page, serve: Serve, make_run: MakeRun, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    sign_in(page, serve(make_run(rows=1, tuned="A" * 300)))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    heights = page.eval_on_selector_all("button", "all => all.map(each => each.getBoundingClientRect().height)")
    assert min(heights) >= 44


def test_strangers_are_kept_out(serve: Serve, make_run: MakeRun) -> None:
    run = make_run(rows=1)
    address = serve(run)
    duel = make_board([run]).duels[0]
    form = {"pair": duel.key, "choice": "left"}
    port = address.rpartition(":")[2]
    cookie = {f"tunesmith_compare_{port}": TOKEN}
    assert httpx.get(address).status_code == 403
    assert httpx.get(f"{address}/?token=wrong").status_code == 403
    assert httpx.post(f"{address}/judge/Eve", data=form).status_code == 403
    elsewhere = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert httpx.post(f"{address}/judge/Eve", data=form, cookies=cookie, headers=elsewhere).status_code == 403
    assert httpx.get(address, cookies=cookie, headers={"Host": "evil.example"}).status_code == 400
    assert Store(run.human).judgements() == []


def test_the_answer_carries_a_policy_that_allows_no_script_but_the_pages_own(serve: Serve, make_run: MakeRun) -> None:
    address = serve(make_run(rows=1))
    port = address.rpartition(":")[2]
    answer = httpx.get(address, cookies={f"tunesmith_compare_{port}": TOKEN})
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    first_visit = httpx.get(f"{address}/?token={TOKEN}")
    assert "HttpOnly" in first_visit.headers["set-cookie"]
    assert "samesite=strict" in first_visit.headers["set-cookie"].casefold()


def test_a_choice_that_does_not_exist_is_refused(serve: Serve, make_run: MakeRun) -> None:
    run = make_run(rows=1)
    address = serve(run)
    port = address.rpartition(":")[2]
    answer = httpx.post(
        f"{address}/judge/Ann",
        data={"pair": "nothing", "choice": "left"},
        cookies={f"tunesmith_compare_{port}": TOKEN},
        headers={"Origin": address},
    )
    assert answer.status_code == 400
    assert Store(run.human).judgements() == []
