"""How fast the pages are: first paint, and from the pointer's input event to the redrawn bit heatmap while dragging.

Run `python tests/benchmarks/bench_slider.py`; it makes a study of DeiT's 12 blocks on disk and needs Chromium. With two
arguments, STUDIES STUDY, it drags in that study.
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
from synthetic_study import make_study

STEPS = 120
PAUSE = 0.03  # seconds between two moves of the pointer, as a steady hand makes them

# the time of each input event, and of each redraw after which the widths written in the heatmap are others
WATCH = """() => {
  window.seen = { inputs: [], draws: [] };
  const found = [];
  const walk = (node) => {
    if (node.querySelectorAll) for (const one of node.querySelectorAll('*')) {
      if (one.classList.contains('map')) found.push(one);
      if (one.shadowRoot) walk(one.shadowRoot);
    }
  };
  walk(document);
  const map = found[0];
  const cells = () => [...map.querySelectorAll('.cell')].map((cell) => cell.textContent).join();
  let last = cells();
  addEventListener('input', () => seen.inputs.push(performance.now()), true);
  new MutationObserver(() => requestAnimationFrame(() => {
    const now = cells();
    if (now !== last) { last = now; seen.draws.push(performance.now()); }
  })).observe(map, { subtree: true, childList: true, characterData: true });
}"""


def first_paint(page: Page, url: str) -> float:
    """Seconds from the request to the first heading of the page."""
    start = time.perf_counter()
    page.goto(url)
    page.wait_for_selector("h1")
    return time.perf_counter() - start


def drag(page: Page) -> tuple[list[float], float]:
    """Milliseconds from input event to redrawn heatmap, one for each redraw of a drag; and redraws a second."""
    box = page.locator("input[type=range]").first.bounding_box()
    assert box
    page.evaluate(WATCH)
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.25 * box["width"], y)
    page.mouse.down()
    for step in range(STEPS):
        page.mouse.move(box["x"] + (0.25 + 0.5 * step / STEPS) * box["width"], y)
        time.sleep(PAUSE)
    page.mouse.up()
    page.wait_for_timeout(1500)
    seen = page.evaluate("() => window.seen")
    span = (seen["inputs"][-1] - seen["inputs"][0]) / 1000
    drawn = [at for at in seen["draws"] if at <= seen["inputs"][-1]]
    return waits(seen["inputs"], seen["draws"]), len(drawn) / span


def waits(inputs: list[float], draws: list[float]) -> list[float]:
    """For each redraw, the time since the oldest input that no earlier redraw had answered: never too small."""
    found, previous = [], 0.0
    for drawn in draws:
        pending = [at for at in inputs if previous < at <= drawn]
        if pending:
            found.append(drawn - pending[0])
        previous = drawn
    return found


def main(studies: Path | None = None, study: str = "builtin") -> None:
    with tempfile.TemporaryDirectory() as folder:
        if studies is None:
            studies = Path(folder) / "studies"
            make_study(studies)
        with Dashboard(studies, log=Path(folder) / "server.log") as url, chromium() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            paint = first_paint(page, f"{url}/?study={study}")
            page.goto(f"{url}/allocation?study={study}")
            page.wait_for_selector(".st-key-bits .cell")
            page.wait_for_timeout(6000)
            found, rate = drag(page)
    print(f"first paint: {paint:.2f} s")
    middle, worst = statistics.median(found), max(found)
    print(f"input to redrawn heatmap: median {middle:.0f} ms, worst {worst:.0f} ms, {len(found)} redraws")
    print(f"exact solutions that reached the screen: {rate:.1f} a second")


if __name__ == "__main__":
    main(*(Path(sys.argv[1]), sys.argv[2]) if len(sys.argv) > 2 else ())
