"""Fixtures that more than one test file needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard import CHROMIUM, Dashboard, chromium
from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium; tests that need one are skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with chromium() as found:
        yield found


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """An empty folder for studies."""
    folder = tmp_path / "studies"
    folder.mkdir()
    return folder


@pytest.fixture
def dashboard(studies: Path) -> Iterator[str]:
    """The address of a dashboard over `studies`, started as on a machine that never saw Streamlit."""
    with Dashboard(studies, log=studies.parent / "server.log") as url:
        yield url


@pytest.fixture
def page(browser: Browser, dashboard: str) -> Iterator[Page]:
    """A browser tab on the dashboard; patient, since tests share slow machines."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000}, accept_downloads=True)
    context.set_default_timeout(60_000)
    found = context.new_page()
    found.goto(dashboard)
    yield found
    context.close()
