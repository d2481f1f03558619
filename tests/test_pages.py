"""The whole job in a real browser, on the built-in model: what a person does, and what they then see."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from lampq_engine.jobs import list_jobs
from lampq_engine.recipe import from_toml
from lampq_engine.store import Study, open_study

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MINUTE = 60_000  # milliseconds
expect.set_options(timeout=MINUTE)
LONG = 30 * MINUTE  # a job may wait for another one on a slow machine

DATA = """(key) => {
  const plot = document.querySelector(`.st-key-${key} .js-plotly-plot`);
  return plot && plot.data ? JSON.stringify(plot.data.map(({ name, x, y, z, text, error_y }) =>
    ({ name, x, y, z, text, error_y }))) : null;
}"""


def drawn(page: Page, key: str) -> list[dict[str, Any]]:
    """The traces of a chart as they stand in the browser, which draws it anew while data change."""
    for _ in range(600):
        if traces := json.loads(page.evaluate(DATA, key) or "[]"):
            return traces
        page.wait_for_timeout(100)
    raise AssertionError(f"the chart {key} was not drawn within a minute")


def wait_for_trace(page: Page, key: str, name: str) -> dict[str, Any]:
    """A trace of a chart, once it is drawn."""
    page.wait_for_function(
        """([key, name]) => {
          const plot = document.querySelector(`.st-key-${key} .js-plotly-plot`);
          return plot && plot.data && plot.data.some((trace) => trace.name === name);
        }""",
        arg=[key, name],
        timeout=LONG,
    )
    return next(trace for trace in drawn(page, key) if trace.get("name") == name)


def until(page: Page, met: Callable[[], bool], *, minutes: int = 1) -> None:
    """Wait until something holds, as long as a slow machine may need."""
    for _ in range(600 * minutes):
        if met():
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"it did not come about within {minutes} minutes")


def go_to(page: Page, name: str) -> None:
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()


def no_error(page: Page) -> None:
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_the_main_job_from_first_open_to_download(page: Page, studies: Path) -> None:
    see_the_analysis(page)
    study = open_study("builtin", studies)
    look_at_sensitivities(page, study)
    drag_the_budget(page)
    quantize_and_measure(page, study)
    refine_with_qat(page, study)
    compare_and_download(page, study)
    start_a_second_study(page, studies)


def see_the_analysis(page: Page) -> None:
    """Nothing was typed: the built-in study is being analysed, and its heatmap appears."""
    expect(page.get_by_text("Analyse builtin").first).to_be_visible()
    expect(page.get_by_test_id("stProgress").first).to_be_visible()
    expect(page.get_by_text(re.compile(r"\d+ of \d+")).first).to_be_visible(timeout=LONG)
    expect(page.locator(".st-key-study-fisher .js-plotly-plot")).to_be_visible(timeout=LONG)
    (trace,) = drawn(page, "study-fisher")
    assert trace["x"] == [str(block) for block in range(12)]
    assert trace["y"][:4] == ["qkv", "proj", "fc1", "fc2"]
    assert sum(value is not None for row in trace["z"][:4] for value in row) == 48
    expect(page.locator(".st-key-study-lampq .js-plotly-plot")).to_be_visible(timeout=LONG)
    no_error(page)


def look_at_sensitivities(page: Page, study: Study) -> None:
    """Raw and type-aware stand side by side, with the values that are on disk."""
    go_to(page, "Sensitivity")
    expect(page.locator(".st-key-map-lampq .js-plotly-plot")).to_be_visible()
    page.get_by_text("Logarithmic colours").click()
    for metric in ("fisher", "lampq"):
        value = study.sensitivity(metric).raw["blocks.5.attn.qkv"]
        key = f"map-{metric}"
        until(page, lambda key=key, value=value: drawn(page, key)[0]["z"][0][5] == pytest.approx(value))  # type: ignore[misc]
    no_error(page)


def number(page: Page) -> Locator:
    """The slider's numeric twin."""
    return page.get_by_role("spinbutton", name="Mean bits at most")


def bits(page: Page) -> list[str]:
    """The widths written in the map, cell by cell."""
    return page.locator(".cell").evaluate_all("cells => cells.map((cell) => cell.firstChild.textContent)")


def total(widths: list[str]) -> int:
    return sum(int(width) for width in widths if width.isdigit())


def drag_the_budget(page: Page) -> None:
    """While the pointer moves, bits, costs and the marker on the frontier follow."""
    go_to(page, "Allocation")
    expect(page.locator(".cell").first).to_be_visible()
    page.get_by_role("tab", name="Cost by kind of layer").click()
    before, costs = bits(page), drawn(page, "costs")[0]["x"]
    slider = page.get_by_role("slider", name="Mean bits at most")
    box = slider.bounding_box()
    assert box
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.25 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], middle, steps=8)
    until(page, lambda: bits(page) != before)  # the button is still down
    page.mouse.up()
    until(page, lambda: total(bits(page)) > total(before))
    until(page, lambda: sum(drawn(page, "costs")[0]["x"]) > sum(costs))
    value = float(slider.input_value())
    expect(number(page)).to_have_value(f"{value:.2f}")
    marker = page.locator("svg[data-at]")
    until(page, lambda: abs(float(marker.get_attribute("data-at") or 0) - value) < 0.1)
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(number(page)).to_have_value(f"{value + 0.01:.2f}")
    no_error(page)


def quantize_and_measure(page: Page, study: Study) -> None:
    """A typed budget is made real beside the page; its point stands on both curves, with its interval."""
    number(page).fill("2.50")
    number(page).press("Enter")
    expect(page.get_by_test_id("stMetricValue").first).to_have_text("2.50")
    page.get_by_role("button", name="Quantize and measure").click()
    expect(page.get_by_text("Running now")).to_be_visible()
    for cost in ("megabytes", "gbops"):
        point = wait_for_trace(page, f"measured-{cost}", "Quantized")
        (trial,) = (trial for trial in study.trials() if not trial.control)
        low, high = trial.evaluation.interval
        assert point["x"] == [pytest.approx(getattr(trial.allocation.cost, cost))]
        assert point["y"] == [pytest.approx(trial.evaluation.top1)]
        assert point["error_y"]["array"] == [pytest.approx(high - trial.evaluation.top1)]
        assert point["error_y"]["arrayminus"] == [pytest.approx(trial.evaluation.top1 - low)]
    expect(page.get_by_text(re.compile(r"float 9\d\.\d %")).first).to_be_visible()
    page.get_by_role("button", name="Run controls").click()
    for cost in ("megabytes", "gbops"):
        uniform = wait_for_trace(page, f"measured-{cost}", "Uniform")
        assert uniform["x"] == sorted(uniform["x"])
    cancel_the_newest(page, study)
    no_error(page)


def cancel_the_newest(page: Page, study: Study) -> None:
    """The sidebar lists running jobs, newest first; the analysis, which made way for this one, may go on below it."""
    newest = list_jobs(study)[0]
    assert newest.alive
    page.get_by_test_id("stSidebar").get_by_role("button", name="Cancel").first.click()
    until(page, lambda: not newest.alive)
    assert newest.state == "cancelled"


def epochs_drawn(page: Page) -> list[float]:
    return drawn(page, "accuracy")[0]["x"]


def resume_the_newest(page: Page, main: Locator, study: Study) -> None:
    """Press Resume until a new job is there: a page that draws itself anew at that moment may miss a press."""
    before = len(list_jobs(study))
    for _ in range(10):
        with contextlib.suppress(PlaywrightTimeout):
            main.get_by_role("button", name="Resume").click(timeout=10_000)
        for _ in range(100):
            if len(list_jobs(study)) > before:
                return
            page.wait_for_timeout(100)
    raise AssertionError("the job was not resumed")


def refine_with_qat(page: Page, study: Study) -> None:
    """Training is watched live, cancelled, found again by another browser tab, and resumed to its end."""
    go_to(page, "Refine")
    epochs = page.get_by_role("spinbutton", name="Epochs")
    epochs.fill("3")
    epochs.press("Tab")
    page.get_by_role("button", name="Refine with QAT").click()
    until(page, lambda: len(epochs_drawn(page)) >= 1, minutes=30)
    until(page, lambda: bool(drawn(page, "loss")[-1]["y"]))
    main = page.get_by_test_id("stMain")
    main.get_by_role("button", name="Cancel").click()
    expect(main.get_by_text("Cancelled").first).to_be_visible(timeout=LONG)
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    expect(main.get_by_text("Cancelled").first).to_be_visible()
    until(page, lambda: len(epochs_drawn(page)) >= 1)  # what was trained before is still drawn
    resume_the_newest(page, main, study)
    expect(page.get_by_text("points against the trial it refined")).to_be_visible(timeout=LONG)
    until(page, lambda: epochs_drawn(page) == [1, 2, 3])
    assert [trial.stage for trial in study.trials() if not trial.control] == ["ptq", "qat"]
    no_error(page)


def compare_and_download(page: Page, study: Study) -> None:
    """Both curves show both points; the chosen trial's packed model and recipe come down as they are on disk."""
    go_to(page, "Compare")
    for cost in ("megabytes", "gbops"):
        for name in ("Quantized", "QAT", "Uniform"):
            wait_for_trace(page, f"compare-{cost}", name)
    page.get_by_test_id("stDataFrame").scroll_into_view_if_needed()
    table = page.get_by_test_id("stDataFrame").bounding_box()
    assert table
    page.mouse.click(table["x"] + 18, table["y"] + 35 * 1.5)  # the box of the first row
    newest = study.trials()[-1]
    expect(page.get_by_role("button", name="Packed model").first).to_be_visible()
    with page.expect_download() as packed:
        page.get_by_role("button", name="Packed model").first.click()
    assert Path(packed.value.path()).read_bytes() == newest.packed.read_bytes()
    with page.expect_download() as recipe:
        page.get_by_role("button", name="Recipe", exact=True).click()
    assert from_toml(Path(recipe.value.path()).read_text()) == newest.recipe
    no_error(page)


def start_a_second_study(page: Page, studies: Path) -> None:
    """A model that is not there gets one sentence, and the first study is as it was."""
    go_to(page, "Study")
    page.get_by_role("tab", name="Start another study").click()
    page.get_by_role("button", name="Start the study").click()
    expect(page.get_by_text("A study needs a model and images")).to_be_visible()
    page.get_by_role("textbox", name="Model", exact=True).fill(f"local-dir:{studies}/nothing-here")
    page.get_by_role("textbox", name="Images", exact=True).fill("builtin")
    page.get_by_role("button", name="Start the study").click()
    failed = page.get_by_test_id("stAlert").filter(has_text="nothing-here")
    expect(failed.first).to_be_visible(timeout=LONG)
    no_error(page)
    assert not open_study("builtin", studies).damaged()
    assert len(open_study("builtin", studies).trials()) >= 2
