"""A cache of the session's own, and a real browser for the tests of pages."""

import shutil
from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What runs cache stays in the session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium as the system has it; `make system` installs it.

    One per module: Playwright keeps an event loop running in its thread, which other modules' asyncio would trip over.
    """
    if CHROMIUM is None:
        pytest.skip("no Chromium: `make system` installs it")
    with sync_playwright() as playwright:
        # A container's /dev/shm is small, and the sandbox needs rights that root in a container lacks.
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh tab whose uncaught script errors fail the test."""
    context = browser.new_context()
    tab = context.new_page()
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    yield tab
    context.close()
    assert errors == []


@pytest.fixture
def assert_fit_to_show() -> Callable[[Page], None]:
    """What every page must be, light at a desk and dark on a phone: accessible (axe-core), nothing over the side."""

    def check(tab: Page) -> None:
        for scheme, width in (("light", 1280), ("dark", 390)):
            tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
            tab.set_viewport_size({"width": width, "height": 900})
            tab.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=width)
            found = Axe().run(tab)
            assert found.violations_count == 0, f"{tab.url}, {scheme}:\n{found.generate_report()}"

    return check
