"""The pages that are files, opened from disk in a browser: accessible, within the screen, without network or errors."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from playwright.sync_api import Page, expect

from tunesmith.planning.plan import Plan
from tunesmith.quality.report import CheckReport
from tunesmith.report.check_page import write_check_page
from tunesmith.report.html import write_report
from tunesmith.report.plan_page import write_plan_page
from tunesmith.run_folder import RunFolder


@pytest.fixture
def opened(page: Page) -> Callable[[Path], Page]:
    """Opens a file; whatever it asks of the network, or says on the console, fails the test."""

    def open_file(path: Path) -> Page:
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: said.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        assert said == []
        return page

    return open_file


def test_a_report(
    opened: Callable[[Path], Page], full_run: RunFolder, assert_fit_to_show: Callable[[Page], None]
) -> None:
    tab = opened(write_report(full_run))
    assert_fit_to_show(tab)
    tab.get_by_role("link", name="What they say").click()
    expect(tab.get_by_role("heading", name="What they say")).to_be_in_viewport()


def test_a_checklist(
    opened: Callable[[Path], Page],
    check_report: CheckReport,
    tmp_path: Path,
    assert_fit_to_show: Callable[[Page], None],
) -> None:
    path = tmp_path / "check.html"
    write_check_page(check_report, path)
    assert_fit_to_show(opened(path))


def test_a_plan(
    opened: Callable[[Path], Page], full_run: RunFolder, tmp_path: Path, assert_fit_to_show: Callable[[Page], None]
) -> None:
    path = tmp_path / "plan.html"
    write_plan_page(msgspec.json.decode(full_run.plan.read_bytes(), type=Plan), path)
    assert_fit_to_show(opened(path))
