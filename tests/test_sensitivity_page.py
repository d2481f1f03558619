"""The Sensitivity page and the models on offer in a real browser: every tab, and a close look made by a job."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dashboard import Dashboard
from playwright.sync_api import Browser, Page, expect
from safetensors.numpy import save_file
from synthetic_study import make_study

from lampq_engine.inspection import layer_view
from lampq_engine.store import Study, open_study
from lampq_engine.types import Bits

pytestmark = pytest.mark.browser

DATA = """(key) => {
  const plot = document.querySelector(`.st-key-${key} .js-plotly-plot`);
  return plot && plot.data ? JSON.stringify(plot.data.map(({ name, x, y, z }) => ({ name, x, y, z }))) : null;
}"""


def keep_traces(study: Study) -> None:
    """Traces of single images whose means are the study's Fisher scores."""
    source = random.Random(0)
    found = {}
    for name, score in study.sensitivity("fisher").raw.items():
        values = np.array([source.expovariate(1.0) for _ in range(64)])
        found[name] = values * score / values.mean()
    save_file(found, study.path / "sensitivity" / "traces-0.safetensors")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("sensitivity")
    keep_traces(make_study(folder / "studies"))
    with Dashboard(folder / "studies", log=folder / "server.log") as url:
        yield url, folder / "studies"


@pytest.fixture
def tab(browser: Browser, served: tuple[str, Path]) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 1800})
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(f"{served[0]}/sensitivity")
    expect(page.locator(".st-key-map-lampq .js-plotly-plot")).to_be_visible(timeout=60_000)
    yield page
    expect(page.get_by_test_id("stException")).to_have_count(0)
    context.close()


def drawn(page: Page, key: str) -> list[dict[str, Any]]:
    expect(page.locator(f".st-key-{key} .js-plotly-plot").first).to_be_visible(timeout=60_000)
    for _ in range(300):
        if found := json.loads(page.evaluate(DATA, key) or "[]"):
            return found
        page.wait_for_timeout(100)
    raise AssertionError(f"the chart {key} was not drawn within 30 seconds")


def choose(page: Page, box: str, option: str) -> None:
    page.get_by_role("combobox", name=re.compile(rf"{box}$")).click()
    page.get_by_role("option", name=option, exact=True).click()


def test_metrics_are_compared(tab: Page) -> None:
    tab.get_by_role("tab", name="Metrics compared").click()
    (table,) = drawn(tab, "agreement")
    assert [row[i] for i, row in enumerate(table["z"])] == pytest.approx([1] * 5)
    names = {trace["name"] for trace in drawn(tab, "scatter")}
    assert names == {"qkv", "proj", "fc1", "fc2"}
    before = drawn(tab, "scatter")[0]["y"]
    choose(tab, "Up", "Measured harm")
    expect(tab.get_by_text("Measured harm against Raw Fisher").first).to_be_visible()
    assert drawn(tab, "scatter")[0]["y"] != before
    choose(tab, "activations.", "4 / 4")
    expect(tab.locator(".st-key-map-harm .js-plotly-plot")).to_be_visible()


def test_how_sure_the_ranks_are(tab: Page) -> None:
    tab.get_by_role("tab", name="How sure").click()
    (ranks,) = drawn(tab, "ranks")
    assert ranks["x"] == list(range(1, 31))
    expect(tab.get_by_text("over 400 resamples of the 256 calibration images")).to_be_visible()
    expect(tab.get_by_text("Type factors").first).to_be_visible()


def test_a_row_of_the_table_chooses_the_layer_that_is_looked_at(tab: Page, served: tuple[str, Path]) -> None:
    box = tab.get_by_test_id("stDataFrame").bounding_box()
    assert box
    tab.mouse.click(box["x"] + 18, box["y"] + 35 * 4.5)
    expect(tab.get_by_text(re.compile("is chosen: see the tab"))).to_contain_text("blocks.0.attn.av")
    tab.get_by_role("tab", name="One layer").click()
    choose(tab, "Layer", "blocks.0.mlp.fc1")
    choose(tab, "Weight bits", "3")
    tab.get_by_role("button", name="Look closely").click()
    (histogram,) = drawn(tab, "look-histogram")
    view = layer_view(open_study("builtin", served[1]), "blocks.0.mlp.fc1", Bits(3, 4))
    assert view
    assert histogram["y"] == view.counts
    assert [line["name"] for line in drawn(tab, "look-errors")] == ["weight", "input", "output"]
    assert len(drawn(tab, "look-input")) == 4
    expect(tab.get_by_text("The worst channels")).to_be_visible()
    choose(tab, "Weight bits", "5")  # another look is another job
    expect(tab.get_by_role("button", name="Look closely")).to_be_visible()
    choose(tab, "Weight bits", "3")  # this one is kept
    assert drawn(tab, "look-histogram")[0]["y"] == view.counts


def test_attention_on_an_image(tab: Page) -> None:
    tab.get_by_role("tab", name="One image").click()
    choose(tab, "Compare with", "every layer at 2/2")
    tab.get_by_role("button", name="Look closely").click()
    before, after = drawn(tab, "look-attention")
    assert len(before["z"]) == len(after["z"]) == 8
    assert before["z"] != after["z"]
    expect(tab.get_by_text(re.compile(r"Float predicts class \d"))).to_be_visible()
    first = before["z"]
    slider = tab.get_by_role("slider", name="Block")
    slider.focus()
    slider.press("ArrowLeft")
    expect(tab.get_by_text("Attention in block 10").first).to_be_visible()
    assert drawn(tab, "look-attention")[0]["z"] != first


def test_a_model_on_offer_fills_the_form(tab: Page, served: tuple[str, Path]) -> None:
    tab.goto(served[0])
    expect(tab.locator(".st-key-study-lampq .js-plotly-plot")).to_be_visible()
    tab.get_by_role("tab", name="Start another study").click()
    search = tab.get_by_role("textbox", name="Search the models on offer")
    search.fill("deit tiny")
    search.press("Enter")
    expect(tab.get_by_text("2 of 157 models")).to_be_visible()
    box = tab.get_by_test_id("stDataFrame").first.bounding_box()
    assert box
    tab.mouse.click(box["x"] + 18, box["y"] + 35 * 1.5)
    model = tab.get_by_role("textbox", name="Model", exact=True)
    expect(model).to_have_value("deit_tiny_patch16_224.fb_in1k")
