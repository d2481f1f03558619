"""What browser tests read of a chart as it stands in the browser, and where its points are to be clicked."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page

DATA = """(key) => {
  const plot = document.querySelector(`.st-key-${key} .js-plotly-plot`);
  return plot && plot.data ? JSON.stringify(plot.data.map(({ name = "", x, y, z, text, customdata }) =>
    ({ name, x, y, z, text, customdata }))) : null;
}"""


def traces(page: Page, key: str) -> list[dict[str, Any]]:
    """The traces of a chart; none while it is not drawn."""
    return json.loads(page.evaluate(DATA, key) or "[]")


def until(page: Page, met: Callable[[], bool], *, seconds: int = 60) -> None:
    """Wait until something holds."""
    for _ in range(10 * seconds):
        if met():
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"it did not come about within {seconds} seconds")


def click_point(page: Page, key: str, place: int) -> None:
    """Click the point of a scatter chart that was drawn at this place among all its points."""
    points = page.locator(f".st-key-{key} .scatterlayer path.point")
    points.nth(place).wait_for(state="attached")
    points.nth(place).scroll_into_view_if_needed()
    box = points.nth(place).bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
