"""Pictures of every page, light and dark, for the README: `python tests/screenshots.py STUDIES STUDY`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from dashboard import ROOT, Dashboard, chromium
from playwright.sync_api import Browser

PAGES = ("study", "sensitivity", "allocation", "refine", "compare", "methods")
TALLEST = 2400


def picture(browser: Browser, url: str, page: str, study: str, theme: str, folder: Path) -> Path:
    """One page, as tall as what is on it."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=theme)  # type: ignore[arg-type]
    tab = context.new_page()
    tab.goto(f"{url}/{'' if page == 'study' else page}?study={study}")
    tab.wait_for_timeout(6000)
    height = tab.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    tab.set_viewport_size({"width": 1280, "height": min(int(height), TALLEST)})
    tab.wait_for_timeout(2500)
    path = folder / f"{page}-{theme}.png"
    tab.screenshot(path=path)
    context.close()
    return path


def main(studies: Path, study: str) -> None:
    """Write twelve pictures to `assets/screenshots/`."""
    folder = ROOT / "assets" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as home,
        Dashboard(studies, log=Path(home) / "log") as url,
        chromium() as browser,
    ):
        for page in PAGES:
            for theme in ("light", "dark"):
                print(picture(browser, url, page, study, theme, folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
