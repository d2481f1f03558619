"""How long a switch of pages takes, how long a study of 100 trials takes to open, what 10 sessions weigh.

Run `python tests/benchmarks/bench_pages.py`; it makes studies on disk and needs Chromium.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dashboard import Dashboard, chromium
from playwright.sync_api import Page
from synthetic_study import add_trial, make_study

from lampq_engine.recipe import ModelSpec, Recipe
from lampq_engine.store import Study

PAGES = {
    "Sensitivity": ".st-key-map-lampq .js-plotly-plot .heatmaplayer",
    "Allocation": ".st-key-bits svg, .st-key-bit-map",
    "Refine": "[data-testid=stSelectbox]",
    "Compare": ".st-key-compare-megabytes .js-plotly-plot .scatterlayer",
    "Jobs": "[data-testid=stSegmentedControl], [data-testid=stButtonGroup]",
    "Present": ".st-key-slide-figure .js-plotly-plot .heatmaplayer",
    "Study": ".st-key-study-lampq .js-plotly-plot .heatmaplayer",
}
ROUNDS, SESSIONS, TRIALS = 4, 10, 100


def switch(page: Page, name: str) -> float:
    """Seconds from the click on a page's name to its heading and its main figure."""
    link = page.get_by_test_id("stSidebarNav").get_by_role("link", name=name)
    page.set_default_timeout(10_000)
    start = time.perf_counter()
    link.click()
    page.wait_for_function(
        """([name, figure]) => document.querySelector(figure) && (name === 'Present'
          || [...document.querySelectorAll('h1')].some((h) => h.textContent.includes(name)))""",
        arg=[name, PAGES[name]],
        polling="raf",
    )
    return time.perf_counter() - start


def switches(page: Page) -> list[float]:
    """Every page in turn, after one unmeasured round."""
    found = []
    for number in range(ROUNDS + 1):
        for name in PAGES:
            took = switch(page, name)
            page.wait_for_timeout(700)  # a person looks at the page
            if name == "Present":
                page.keyboard.press("Escape")  # back to the pages with a sidebar
                page.wait_for_selector(".st-key-compare-gbops .js-plotly-plot .scatterlayer")
                page.wait_for_timeout(700)
            print(f"  {name} {1e3 * took:.0f} ms", file=sys.stderr)
            if number:
                found.append(took)
    return found


def opening(page: Page, url: str, study: Study) -> float:
    """Seconds from the request to both curves of a study that nobody has opened yet."""
    start = time.perf_counter()
    page.goto(f"{url}/compare?study={study.name}")
    page.wait_for_selector(".st-key-compare-gbops .js-plotly-plot .scatterlayer")
    return time.perf_counter() - start


def choosing(page: Page, url: str, study: Study) -> float:
    """Seconds from choosing another study, with 100 trials, to its curves, in a session that is open."""
    page.goto(f"{url}/compare?study=builtin")
    page.wait_for_selector(".st-key-compare-gbops .js-plotly-plot .scatterlayer")
    page.wait_for_timeout(1000)
    box = page.get_by_role("combobox", name="Study", exact=True)
    box.click()
    start = time.perf_counter()
    page.get_by_role("option", name=study.name).click()
    count = """(least) => {
      const plot = document.querySelector('.st-key-compare-gbops .js-plotly-plot');
      return plot && plot.data && plot.data.reduce((sum, one) => sum + one.x.length, 0) >= least;
    }"""
    page.wait_for_function(count, arg=TRIALS, polling="raf")
    return time.perf_counter() - start


def megabytes_of(process: int) -> float:
    """Resident memory of a process, 10^6 bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS"))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        studies = Path(folder) / "studies"
        many = make_study(studies, recipe=Recipe(model=ModelSpec("many_trials")))
        for number in range(TRIALS - len(many.trials())):
            add_trial(many, f"trial-{number}", f"Trial {number}", top1=80 + number / 8, width=2 + number % 7)
        make_study(studies)
        board = Dashboard(studies, log=Path(folder) / "server.log")
        with board as url, chromium() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            page.goto(url)
            page.wait_for_selector("h1")
            page.wait_for_timeout(3000)
            opened = choosing(page, url, many)
            cold = opening(page, url, many)
            page.goto(url)
            page.wait_for_selector("h1")
            page.wait_for_timeout(3000)
            found = switches(page)
            for number in range(SESSIONS - 1):
                tab = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
                tab.goto(f"{url}/{('allocation', 'compare', 'sensitivity')[number % 3]}?study={many.name}")
                tab.wait_for_selector("h1")
            page.wait_for_timeout(5000)
            memory = megabytes_of(board.process.pid)
    middle = 1e3 * statistics.median(found)
    print(f"switch of pages: median {middle:.0f} ms, worst {1e3 * max(found):.0f} ms, {len(found)}")
    print(f"study of {TRIALS} trials: {opened:.2f} s; with the page itself {cold:.2f} s")
    print(f"server with {SESSIONS} sessions: {memory:.0f} MB")


if __name__ == "__main__":
    main()
