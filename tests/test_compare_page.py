"""The Compare page in the browser: choosing trials, what two of them do differently, saving and deleting."""

from __future__ import annotations

from pathlib import Path

import pytest
from charts import click_point, traces, until
from playwright.sync_api import Page, expect
from synthetic_study import make_study

from lampq_engine.compare import change, flips
from lampq_engine.predictions import predictions_of, truth_of
from lampq_engine.recipe import ModelSpec, Recipe
from lampq_engine.store import Study, open_study

pytestmark = [pytest.mark.browser]


@pytest.fixture
def study(studies: Path) -> Study:
    made = make_study(studies)
    make_study(studies, recipe=Recipe(model=ModelSpec("deit_tiny_patch16_224")), blocks=3)
    (made.path / "study.json").touch()  # the newest is shown first
    return made


def go(page: Page, name: str) -> None:
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()


def box(page: Page, name: str) -> str:
    """What a select box shows."""
    return page.get_by_role("combobox", name=name, exact=True).get_attribute("value") or ""


def card(page: Page, name: str) -> str:
    return page.get_by_test_id("stMetric").filter(has_text=name).get_by_test_id("stMetricValue").inner_text()


def test_choose_compare_save_and_delete(study: Study, page: Page) -> None:
    go(page, "Compare")
    see_the_newest_against_float(page, study)
    choose_a_point(page, study)
    look_at_flips(page, study)
    compare_with_another_study(page)
    save_the_table(page)
    delete_a_trial(page, study)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def see_the_newest_against_float(page: Page, study: Study) -> None:
    """Float, controls and trials stand in both curves without a click; the change is paired and has its interval."""
    for key in ("compare-megabytes", "compare-gbops"):
        until(page, lambda key=key: {"Quantized", "QAT", "Uniform", "Random"} <= {t["name"] for t in traces(page, key)})  # type: ignore[misc]
    truth = truth_of(study)
    assert truth
    after = predictions_of(study.trial("mixed-2-5-qat"), truth)
    assert after
    found = change(truth, truth.whole, after)
    until(page, lambda: card(page, "Change") == f"{found.change:+.1f} points")
    sentence = f"(95 % interval {found.low:+.1f} to {found.high:+.1f}): {found.lost} lost, {found.gained} gained"
    expect(page.get_by_text(sentence)).to_be_visible()
    (bars,) = traces(page, "by-class")
    assert sum(row[3] for row in bars["customdata"]) == study.float_evaluation.images


def choose_a_point(page: Page, study: Study) -> None:
    """A click on a point of the curve makes it the trial; everything follows."""
    data = traces(page, "compare-megabytes")
    names = [row[0] for trace in data if trace.get("customdata") for row in trace["customdata"]]
    click_point(page, "compare-megabytes", names.index("Random scores"))
    until(page, lambda: "Random scores" in box(page, "Trial"))
    until(page, lambda: card(page, "Top-1 accuracy") == f"{study.trial('random-2-5').evaluation.top1:.1f} %")


def look_at_flips(page: Page, study: Study) -> None:
    """Pictures of the images that were lost, as many as the record says."""
    page.get_by_role("tab", name="Images that flip").click()
    truth = truth_of(study)
    assert truth
    after = predictions_of(study.trial("random-2-5"), truth)
    assert after
    lost = [flip for flip in flips(truth, truth.whole, after) if flip.kind == "lost"]
    expect(
        page.get_by_role("radio", name=f"Lost ({len(lost)})").or_(page.get_by_text(f"Lost ({len(lost)})")).first
    ).to_be_visible()
    expect(page.get_by_test_id("stImage").get_by_role("img").first).to_be_visible()
    assert page.get_by_alt_text(lost[0].image, exact=False).count() >= 1


def compare_with_another_study(page: Page) -> None:
    """Trials of another study join both curves; per-image comparison says why it is not there."""
    chooser = page.get_by_role("combobox", name="With trials of other studies")
    chooser.click()
    page.get_by_role("option", name="deit").first.click()
    page.keyboard.press("Escape")
    until(
        page, lambda: any("deit" in row[0] for t in traces(page, "compare-gbops") for row in t.get("customdata") or [])
    )
    against = page.get_by_role("combobox", name="Against", exact=True)
    against.click()
    against.fill("deit Random")
    page.get_by_role("option").filter(has_text="deit").first.click()
    expect(page.get_by_text("The two are of different studies")).to_be_visible()
    page.get_by_role("tab", name="Recipes").click()
    expect(page.get_by_role("cell", name="deit_tiny_patch16_224")).to_be_visible()


def save_the_table(page: Page) -> None:
    with page.expect_download() as saved:
        page.get_by_role("button", name="Table as CSV").click()
    lines = Path(saved.value.path()).read_text().splitlines()
    assert lines[0].startswith("study,trial,title,stage,top1,low,high,images")
    assert len(lines) == 13


def delete_a_trial(page: Page, study: Study) -> None:
    """Asked twice, it is gone from disk and from the curves."""
    page.get_by_role("button", name="Delete", exact=False).last.click()
    page.get_by_role("button", name="Delete this trial").click()
    until(page, lambda: not (study.path / "trials" / "random-2-5").exists())
    until(page, lambda: all(t["name"] != "Random" or len(t["x"]) == 1 for t in traces(page, "compare-megabytes")))
    assert len(open_study(study.name, study.path.parent).trials()) == 5
