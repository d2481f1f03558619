"""What one sends to others: the report with the network off, the link in another browser, the slides by arrow keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from charts import traces, until
from playwright.sync_api import Browser, Page, expect
from synthetic_study import make_study
from test_views import opened

from lampq_engine.commands import main
from lampq_engine.report import as_html
from lampq_engine.store import Study

pytestmark = [pytest.mark.browser]


@pytest.fixture
def study(studies: Path) -> Study:
    return make_study(studies)


@pytest.fixture
def offline(browser: Browser) -> Iterator[Page]:
    """A tab without a network."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_offline(True)
    yield context.new_page()
    context.close()


def share(page: Page) -> None:
    page.get_by_test_id("stSidebar").get_by_role("button", name="Share").click()
    expect(page.get_by_role("button", name="Report (HTML)")).to_be_visible()


def test_the_report_of_the_page_opens_offline_with_the_same_numbers(
    study: Study, page: Page, dashboard: str, offline: Page, tmp_path: Path
) -> None:
    page.goto(f"{dashboard}/compare")
    until(page, lambda: len(traces(page, "compare-megabytes")) >= 4)
    shown = {t["name"]: (t["x"], t["y"]) for t in traces(page, "compare-megabytes") if t.get("name")}
    share(page)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Report (HTML)").click()
    path = tmp_path / "report.html"
    saved.value.save_as(path)
    asked: list[str] = []
    offline.on("request", lambda request: asked.append(request.url))
    errors: list[str] = []
    offline.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    offline.goto(path.as_uri())
    offline.wait_for_function("document.body.dataset.drawn")
    drawn = json.loads(
        offline.evaluate(
            "JSON.stringify(document.querySelector('#accuracy-megabytes .plot').data"
            ".map(({name, x, y}) => ({name, x, y})))"
        )
    )
    for name, (x, y) in shown.items():
        other = next(trace for trace in drawn if trace["name"] == name)
        assert other["x"] == pytest.approx(x)
        assert other["y"] == pytest.approx(y)
    text = offline.inner_text("body")
    for trial in study.trials():
        low, high = trial.evaluation.interval
        row = f"{trial.evaluation.top1:.1f}\t{low:.1f} to {high:.1f}\t{trial.evaluation.images}"
        assert row in text
    assert {"0123456789abcdef", "fedcba9876543210", "2.15.0", "control: random"} <= set(re.split(r"[\t\n]", text))
    with offline.expect_download() as picture:
        offline.locator("#accuracy-gbops [data-save=svg]").click()
    assert Path(picture.value.path()).read_text().startswith("<svg")
    with offline.expect_download() as table:
        offline.get_by_role("button", name="Table as CSV").first.click()
    assert len(Path(table.value.path()).read_text().splitlines()) == 7
    offline.emulate_media(media="print")
    expect(offline.locator(".tools").first).to_be_hidden()
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []
    assert errors == []


def test_a_report_escapes_what_it_prints_and_the_command_writes_it(
    studies: Path, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAMPQ_STUDIES", str(studies))
    record = study.path / "trials" / "mixed-2-5" / "trial.json"
    evil = "</script><script>alert(1)</script><b>"
    plain = json.loads(record.read_text())
    record.write_text(json.dumps(plain | {"title": evil}))
    html = as_html(study, "mixed-2-5")
    assert evil not in html
    assert "&lt;/script&gt;" in html
    assert html.count("Plotly.react") == 1
    to = tmp_path / "out" / "r.html"
    assert main(["report", "--study", study.name, "--to", str(to), "--quiet"]) == 0
    assert to.read_text().startswith("<!doctype html>")
    assert main(["report", "--study", study.name, "--to", str(tmp_path / "r.txt"), "--quiet"]) == 2
    assert "expected a file name that ends in .html" in capsys.readouterr().err.lower()


def test_a_link_restores_the_view_in_another_browser(
    study: Study, page: Page, dashboard: str, browser: Browser
) -> None:
    words = "metric=output&mean_bits=3.5&gbops=1.8&pin=blocks.0.attn.qkv%3D8%2F8&menu=fc2%3D4%2C6%2C8&tie=residual"
    words += "&layer=blocks.7.mlp.fc1"
    page.goto(f"{dashboard}/allocation?study={study.name}&{words}&compare={study.name}/random-2-5")
    expect(page.get_by_role("spinbutton", name="Mean bits at most").first).to_have_value("3.50")
    expect(page.get_by_role("spinbutton", name="GBOPs at most").first).to_have_value("1.800")
    share(page)
    link = page.get_by_test_id("stCode").first
    address = re.sub(r"\s", "", link.inner_text())
    assert address.startswith(f"{dashboard}/allocation?")
    other = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    other.goto(address)
    expect(other.get_by_role("spinbutton", name="Mean bits at most").first).to_have_value("3.50", timeout=60_000)
    expect(other.get_by_text("blocks.7.mlp.fc1 has", exact=False).first).to_be_visible(timeout=60_000)
    command = page.get_by_test_id("stCode").nth(1).inner_text()
    for word in ("--pin blocks.0.attn.qkv=8/8", "--tie residual", "--menu fc2=4,6,8", "--metric output"):
        assert word in command.replace("\n", " ")
    other.get_by_test_id("stSidebarNav").get_by_role("link", name="Compare").click()
    trial = other.get_by_role("combobox", name="Trial", exact=True)
    until(other, lambda: "Random scores" in (trial.get_attribute("value") or ""))
    other.context.close()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("metric=magic", "'magic' is not a metric"),
        ("mean_bits=-3", "budgets.mean_bits is -3.0"),
        ("mean_bits=%3Cscript%3E", "is not a number"),
        ("pin=nothing%3D4", "layers that this model does not have, first 'nothing'"),
        ("menu=qkv%3D99", "menu.weights"),
    ],
)
def test_a_bad_link_gets_one_sentence_and_changes_nothing(
    words: str, sentence: str, study: Study, monkeypatch: pytest.MonkeyPatch, studies: Path
) -> None:
    monkeypatch.setenv("LAMPQ_STUDIES", str(studies))
    name, _, value = words.partition("=")
    page = opened("study", study=study.name, **{name: unquote(value)})
    assert len(page.toast) == 1
    assert sentence in page.toast[0].value
    assert "history-builtin" not in page.session_state


def test_slides_turn_by_arrow_keys_and_escape_leaves(study: Study, page: Page, dashboard: str) -> None:
    page.goto(f"{dashboard}/present")
    expect(page.get_by_role("heading", name="Which layers are sensitive")).to_be_visible()
    assert page.get_by_test_id("stMain").get_by_role("textbox").count() == 0
    size = page.get_by_role("heading", name="Which layers").evaluate("e => parseFloat(getComputedStyle(e).fontSize)")
    assert size >= 36
    for title in ("bits of the weights", "bits of the activations", "Accuracy against megabytes", "bit operations"):
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("heading", name=title)).to_be_visible()
    until(page, lambda: {"Quantized", "Uniform"} <= {t["name"] for t in traces(page, "slide-figure")})
    page.keyboard.press("ArrowRight")  # the last one stays
    expect(page.get_by_text("5 / 5")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("heading", name="Accuracy against megabytes")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name="Compare", exact=True)).to_be_visible()
    page.get_by_test_id("stSidebarNav").get_by_role("link", name="Study").click()  # the sidebar is back
    expect(page.get_by_role("heading", name="Study", exact=True)).to_be_visible()
