"""Two people at one study, in two browsers: both edit, both start jobs, each sees the other's; nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from charts import traces, until
from playwright.sync_api import Browser, Page, expect
from synthetic_study import add_trial, make_study

from lampq_engine.jobs import device_turn, list_jobs
from lampq_engine.store import Study

pytestmark = [pytest.mark.browser]


@pytest.fixture
def study(studies: Path) -> Study:
    return make_study(studies)


@pytest.fixture
def other(browser: Browser, dashboard: str) -> Iterator[Page]:
    """The second person's tab, in a browser that shares nothing with the first one's."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(60_000)
    found = context.new_page()
    found.goto(dashboard)
    yield found
    context.close()


def go(page: Page, name: str) -> None:
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible(timeout=60_000)


def set_mean(page: Page, value: str) -> None:
    box = page.get_by_role("spinbutton", name="Mean bits at most").first
    box.fill(value)
    box.press("Enter")
    expect(page.get_by_test_id("stMetricValue").first).to_have_text(value, timeout=60_000)


def test_both_edit_and_start_jobs_and_each_sees_the_others(
    study: Study, studies: Path, page: Page, other: Page
) -> None:
    with device_turn(studies):  # the jobs wait for the device, and cost no time
        for one, value in ((page, "2.60"), (other, "3.40")):
            go(one, "Allocation")
            set_mean(one, value)
        page.get_by_role("button", name="Quantize and measure").click()
        other.get_by_role("button", name="Quantize and measure").click()
        until(page, lambda: len(list_jobs(study)) == 2)
        for one in (page, other):
            side = one.get_by_test_id("stSidebar")
            for title in ("Quantize: LampQ at 2.6 bits", "Quantize: LampQ at 3.4 bits"):
                expect(side.get_by_text(title)).to_be_visible(timeout=60_000)
        both_positions_stay(page, other)
        one_cancels_and_the_other_sees_it(page, other, study)
        each_sees_a_new_trial(page, other, study)
        resume_from_the_jobs_page(other, study)
    assert not study.damaged()
    for one in (page, other):
        expect(one.get_by_test_id("stException")).to_have_count(0)


def both_positions_stay(page: Page, other: Page) -> None:
    expect(page.get_by_role("spinbutton", name="Mean bits at most").first).to_have_value("2.60")
    expect(other.get_by_role("spinbutton", name="Mean bits at most").first).to_have_value("3.40")


def one_cancels_and_the_other_sees_it(page: Page, other: Page, study: Study) -> None:
    """The second person's job is cancelled by the first, from the list of jobs; its log can be read by both."""
    newest = list_jobs(study)[0]
    for one in (page, other):
        go(one, "Jobs")
        expect(one.get_by_text("Waiting for the device").first).to_be_visible(timeout=60_000)
    page.locator(f".st-key-cancel-queue-{newest.id} button").click()
    until(page, lambda: newest.state == "cancelled")
    for one in (page, other):
        expect(one.locator(f".st-key-resume-past-{newest.id}")).to_be_visible(timeout=60_000)
        expect(one.get_by_text("Cancelled", exact=True).first).to_be_visible()
    other.locator(f".st-key-log-past-{newest.id} button").click()
    expect(other.get_by_text("cancelled").first).to_be_visible()
    other.keyboard.press("Escape")


def each_sees_a_new_trial(page: Page, other: Page, study: Study) -> None:
    """A trial that a job wrote appears for both, without a click."""
    for one in (page, other):
        go(one, "Compare")
        until(one, lambda one=one: len(traces(one, "compare-megabytes")) >= 4)  # type: ignore[misc]
    add_trial(study, "from-a-job", "Made meanwhile", top1=95.0)
    for one in (page, other):
        until(
            one,
            lambda one=one: any(  # type: ignore[misc]
                row[0] == "Made meanwhile"
                for trace in traces(one, "compare-megabytes")
                for row in trace.get("customdata") or []
            ),
        )


def resume_from_the_jobs_page(page: Page, study: Study) -> None:
    """What was cancelled is resumed by the other person, and waits in the queue again."""
    cancelled = list_jobs(study)[0]
    go(page, "Jobs")
    page.locator(f".st-key-resume-past-{cancelled.id} button").click()
    until(page, lambda: len(list_jobs(study)) == 3)
    expect(page.locator(f".st-key-cancel-queue-{list_jobs(study)[0].id}")).to_be_visible(timeout=60_000)
