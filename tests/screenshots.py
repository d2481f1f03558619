"""Pictures of every page and of the report, light and dark: `python tests/screenshots.py STUDIES STUDY [FOLDER]`.

Without a folder they are 1280 pixels wide and go to `assets/screenshots/`, for the README. With one they are also taken
2560 pixels wide, to look at.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from dashboard import ROOT, Dashboard, chromium
from playwright.sync_api import Browser, Page

from lampq_engine.report import as_html
from lampq_engine.store import open_study

PAGES = ("study", "sensitivity", "allocation", "refine", "compare", "methods", "present", "jobs")
THEMES = ("light", "dark")
TALLEST = 2600


def picture(browser: Browser, address: str, path: Path, *, theme: str, width: int) -> Path:
    """One page, as tall as what is on it."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)  # type: ignore[arg-type]
    tab = context.new_page()
    tab.goto(address)
    if address.startswith("file:"):
        tab.wait_for_function("document.body.dataset.drawn")
    else:
        grow(tab, width)
    tab.screenshot(path=path, full_page=address.startswith("file:"))
    context.close()
    return path


def grow(tab: Page, width: int) -> None:
    """Let the page settle, and make the window as tall as what is on it."""
    tab.wait_for_timeout(6000)
    height = tab.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    tab.set_viewport_size({"width": width, "height": min(int(height), TALLEST)})
    tab.wait_for_timeout(2500)


def main(studies: Path, study: str, folder: Path | None = None) -> None:
    """Write a picture of each page, and of the report, in both themes."""
    to = folder or ROOT / "assets" / "screenshots"
    to.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as home,
        Dashboard(studies, log=Path(home) / "log") as url,
        chromium() as browser,
    ):
        report = Path(home) / "report.html"
        report.write_text(as_html(open_study(study, studies)))
        addresses = {page: f"{url}/{'' if page == 'study' else page}?study={study}" for page in PAGES}
        addresses["report"] = report.as_uri()
        for page, address in addresses.items():
            for theme in THEMES:
                for width in (1280, 2560) if folder else (1280,):
                    wide = f"-{width}" if width != 1280 else ""
                    print(picture(browser, address, to / f"{page}{wide}-{theme}.png", theme=theme, width=width))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]) if len(sys.argv) > 3 else None)
