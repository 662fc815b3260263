"""The whole path in a real browser: upload, check, plan, start, watch, compare, judge, chat."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from running_server import RunningServer, ticket_rows

ROWS = 24
PATIENCE_MS = 60_000
TRAINING_MS = 180_000
"""A busy machine takes long to start a trainer."""

WIDTHS = (1280, 390)
"""A desk and a phone."""


@pytest.fixture
def tab(page: Page, server: RunningServer) -> Iterator[Page]:
    """A tab that is signed in; a console that is not empty fails the test."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page.goto(server.url)
    page.get_by_label("API key").fill(server.key("dashboard"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    yield page
    assert said == []


@pytest.mark.slow
def test_from_a_file_to_a_chat_with_the_tuned_model(tab: Page, server: RunningServer) -> None:
    expect(tab.get_by_role("heading", name="No jobs yet")).to_be_visible()
    upload_and_check(tab)
    plan_and_start(tab)
    watch(tab)
    compare(tab, server)
    chat(tab)


def upload_and_check(tab: Page) -> None:
    tab.get_by_role("link", name="Upload a file").click()
    tab.get_by_label("Training or validation file").set_input_files(
        {"name": "tickets.jsonl", "mimeType": "application/jsonl", "buffer": ticket_rows(ROWS)}
    )
    tab.get_by_role("button", name="Upload and check").click()
    expect(tab.get_by_role("heading", name="Duplicates", exact=True)).to_be_visible()
    fits(tab)


def plan_and_start(tab: Page) -> None:
    tab.get_by_role("link", name="Plan a job with it").click()
    expect(tab.locator("#preview tr.chosen")).to_contain_text("LoRA")
    tab.get_by_label("Plan for").select_option("T4 16GB")
    expect(tab.locator("#preview")).to_contain_text("LoRA fits on one T4 16GB")
    tab.get_by_label("Name").fill("browser")
    tab.get_by_text("Hyperparameters", exact=True).first.click()
    tab.get_by_label("Epochs").fill("1")
    tab.get_by_label("Batch size").fill("4")
    fits(tab)
    tab.get_by_role("button", name="Start the job").click()
    expect(tab.get_by_role("heading", name="browser")).to_be_visible()


def watch(tab: Page) -> None:
    """The page is not reloaded: what it shows came by server-sent events."""
    expect(tab.locator("#chart canvas")).to_be_visible(timeout=TRAINING_MS)
    expect(tab.locator("#chart")).to_have_attribute("aria-label", re.compile(r"training loss \d"))
    fits(tab)
    expect(tab.locator("#job-state")).to_have_text("succeeded", timeout=TRAINING_MS)


def compare(tab: Page, server: RunningServer) -> None:
    expect(tab.get_by_role("heading", name="Did it help?")).to_be_visible()
    expect(tab.get_by_role("heading", name="What they say")).to_be_visible()
    expect(tab.locator("#live")).to_be_hidden()
    expect(tab.get_by_text(str(server.data_dir))).to_have_count(0)
    fits(tab)
    tab.get_by_role("link", name="Judge blind").click()
    expect(tab.get_by_role("heading", name="Which reply is better?")).to_be_visible()
    if tab.get_by_role("button", name="Equally good").count():  # the two may have said the same
        press(tab, "3")
        expect(tab.locator(".lede")).to_contain_text(re.compile(r"1 of \d+ judged"))
    tab.get_by_role("link", name="Back to the job").click()
    tab.get_by_role("link", name="Open the report").click()
    expect(tab.get_by_text("Tunesmith run report")).to_be_visible()
    tab.go_back()


def chat(tab: Page) -> None:
    tab.get_by_role("link", name="Chat with base and tuned").click()
    expect(tab.get_by_role("combobox", name="Right model")).to_have_value(re.compile("^ft:embedded:dashboard:browser:"))
    tab.get_by_role("textbox", name="Message").fill("My parcel is broken.")
    press(tab, "Enter")
    for side in ("left", "right"):
        log = tab.get_by_role("log", name=f"What the {side} model says")
        expect(log).to_contain_text("My parcel is broken.")
        expect(log).to_contain_text(re.compile(r"\d+ tokens in"))
    fits(tab)


def press(tab: Page, key: str) -> None:
    """A page shows before its scripts run, and only they know its keys; no hand is as fast as this one."""
    tab.wait_for_load_state()
    tab.keyboard.press(key)


def fits(tab: Page) -> None:
    """Nothing is wider than the screen."""
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 844})
        tab.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=width)
    tab.set_viewport_size({"width": 1280, "height": 900})
