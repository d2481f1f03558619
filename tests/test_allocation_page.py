"""The Allocation page in a real browser: every way to steer the solver, and what is then seen."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest
from dashboard import Dashboard
from playwright.sync_api import Browser, Locator, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from synthetic_study import make_study

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("allocation")
    make_study(folder / "studies")
    with Dashboard(folder / "studies", log=folder / "server.log") as url:
        yield url


@pytest.fixture
def tab(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 2400})
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.goto(f"{address}/allocation")
    expect(page.locator(".cell")).to_have_count(74, timeout=60_000)
    expect(page.get_by_text("What each width costs in all").first).to_be_visible(timeout=60_000)
    yield page
    expect(page.get_by_test_id("stException")).to_have_count(0)
    context.close()


def cell(page: Page, layer: str) -> Locator:
    return page.locator(f'.cell[aria-label^="{layer}:"]')


def bits(page: Page) -> dict[str, str]:
    """What the map says of every layer: widths of weights and activations."""
    said = page.locator(".cell").evaluate_all("cells => cells.map(cell => cell.getAttribute('aria-label'))")
    found = (re.match(r"(\S+): (\S+?)(?: bits)? weights, (\S+?)(?: bits)? activations", label) for label in said)
    return {match[1]: f"{match[2]}/{match[3]}" for match in found if match}


def panel(page: Page) -> Locator:
    """What explains the position, below the map."""
    return page.get_by_test_id("stTabs")


def mean_bits(page: Page) -> float:
    return float(page.get_by_test_id("stMetricValue").first.inner_text())


def number(page: Page, name: str) -> Locator:
    return page.get_by_role("spinbutton", name=f"{name} at most", exact=True)


def type_budget(page: Page, name: str, value: str) -> None:
    number(page, name).fill(value)
    number(page, name).press("Enter")


def binds(page: Page) -> list[str]:
    """Which budgets say that they bind."""
    return page.locator(".row").evaluate_all(
        "rows => rows.filter(row => row.querySelector('.binds').textContent)"
        ".map(row => row.querySelector('.label').textContent)"
    )


def until(page: Page, met) -> None:  # type: ignore[no-untyped-def]
    for _ in range(300):
        if met():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it did not come about within 30 seconds")


def test_a_drag_moves_bits_numbers_and_marker_and_one_undo_takes_it_back(tab: Page) -> None:
    before, start = bits(tab), mean_bits(tab)
    slider = tab.locator("input[type=range]").first
    box = slider.bounding_box()
    assert box
    middle = box["y"] + box["height"] / 2
    tab.mouse.move(box["x"] + 0.25 * box["width"], middle)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.6 * box["width"], middle, steps=6)
    until(tab, lambda: bits(tab) != before)  # the button is still down
    tab.mouse.up()
    until(tab, lambda: float(slider.input_value()) == float(number(tab, "Mean bits").input_value()) > 5.5)
    value = float(slider.input_value())
    until(tab, lambda: mean_bits(tab) == pytest.approx(value, abs=0.03))
    until(
        tab, lambda: float(tab.locator("svg[data-at]").get_attribute("data-at") or 0) == pytest.approx(value, abs=0.03)
    )
    slider.focus()
    tab.keyboard.press("ArrowRight")
    expect(number(tab, "Mean bits")).to_have_value(f"{value + 0.01:.2f}")
    undo = tab.get_by_role("button", name="Undo")
    expect(undo).to_be_enabled()
    for _ in range(2):  # the walk by keyboard was a step of its own, unless it followed the drag at once
        with contextlib.suppress(PlaywrightTimeout):
            undo.click(timeout=3000)
    until(tab, lambda: bits(tab) == before and mean_bits(tab) == start)
    expect(undo).to_be_disabled()
    tab.get_by_role("button", name="Redo").click()
    until(tab, lambda: mean_bits(tab) == pytest.approx(value, abs=0.03))


def test_budgets_combine_and_the_card_says_which_one_binds(tab: Page) -> None:
    assert binds(tab) == ["Mean bits"]
    type_budget(tab, "GBOPs", "1.4")
    until(tab, lambda: binds(tab) == ["GBOPs"])
    expect(tab.get_by_text("Limited by GBOPs.")).to_be_visible()
    assert mean_bits(tab) < 3.5
    tab.get_by_role("switch", name="Limit GBOPs").click()  # off again
    until(tab, lambda: binds(tab) == ["Mean bits"])
    tab.get_by_role("switch", name="Limit Megabytes").click()  # on, at what is used now
    expect(number(tab, "Megabytes")).to_have_value(re.compile(r"0\.69\d"))


def test_a_budget_that_nothing_meets_says_so_and_starts_nothing(tab: Page) -> None:
    type_budget(tab, "Mean bits", "1.5")
    expect(tab.get_by_text("No allocation meets the budget mean bits 1.5").first).to_be_visible()
    tab.get_by_role("button", name="Quantize and measure").click()
    expect(tab.get_by_test_id("stToast").first).to_contain_text("at least mean bits 2")
    until(tab, lambda: mean_bits(tab) == 2.0)


def test_why_a_layer_has_its_width_and_a_pin_from_there(tab: Page) -> None:
    cell(tab, "blocks.4.mlp.fc2").click()
    expect(panel(tab).get_by_text(re.compile(r"^blocks\.4\.mlp\.fc2 has 3 bits$"))).to_be_visible()
    expect(tab.get_by_text("Down to 2/2 it would harm").first).to_be_visible()
    expect(tab.get_by_text("Up to 4/4 it would save").first).to_be_visible()
    expect(tab.get_by_text(re.compile(r"price now: .* points per mean bit"))).to_be_visible()
    expect(tab.locator(".line").first).to_contain_text("blocks.4.mlp.fc2 has 3 bits. Down to 2/2")
    tab.get_by_role("button", name="Pin at 4/4").click()
    expect(cell(tab, "blocks.4.mlp.fc2")).to_have_class(re.compile("pinned"))
    assert bits(tab)["blocks.4.mlp.fc2"] == "4/4"
    expect(panel(tab).get_by_text("Nothing was chosen: 4/4 is the only pair")).to_be_visible()
    tab.get_by_role("button", name="Unpin").click()
    until(tab, lambda: bits(tab)["blocks.4.mlp.fc2"] == "3/3")


def test_the_map_is_walked_by_keyboard(tab: Page) -> None:
    cell(tab, "blocks.0.attn.qkv").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
        tab.keyboard.press(key)
    expect(panel(tab).get_by_text("blocks.2.attn.qk has 8 bits")).to_be_visible()


def test_ties_hold_and_what_changed_lists_the_layers_that_flip(tab: Page) -> None:
    before = bits(tab)
    tab.get_by_role("button", name="proj with fc2 (residual)").click()
    until(
        tab,
        lambda: all(bits(tab)[f"blocks.{b}.attn.proj"] == bits(tab)[f"blocks.{b}.mlp.fc2"] for b in range(12)),
    )
    flipped = sum(pair != before[name] for name, pair in bits(tab).items())
    tab.get_by_role("tab", name="What changed").click()
    expect(tab.get_by_text(re.compile(rf"^{flipped} layers flip"))).to_be_visible()
    expect(tab.locator(".cell.changed")).to_have_count(flipped)
    tab.get_by_role("combobox", name=re.compile("^.*To$")).last.click()
    tab.get_by_role("option", name="Uniform 8").click()
    expect(tab.get_by_text(re.compile(r"^48 layers flip: 48 get more bits, 0 fewer"))).to_be_visible()


def test_a_hardware_menu_and_keep_float(tab: Page) -> None:
    tab.get_by_role("button", name="hardware: 4, 8").click()
    until(tab, lambda: set(bits(tab).values()) == {"4/4", "8/8"})
    expect(tab.get_by_text("No allocation meets the budget mean bits 3.5").first).to_be_visible()
    tab.get_by_role("button", name="float", exact=True).click()
    until(tab, lambda: set(bits(tab).values()) == {"float/float", "8/8"})
    tab.get_by_role("button", name="Undo").click()
    until(tab, lambda: set(bits(tab).values()) == {"4/4", "8/8"})


def test_free_widths_show_both_sides(tab: Page) -> None:
    tab.get_by_role("radio", name="free").click()
    expect(tab.get_by_role("spinbutton", name="Mean activation bits at most")).to_be_visible()
    type_budget(tab, "GBOPs", "1.2")
    until(tab, lambda: any(len(set(pair.split("/"))) == 2 for pair in bits(tab).values()))


def edit(page: Page, table: Locator, column: int, row: int, keys: list[str]) -> None:
    """Choose a cell of a table by its place and type into it."""
    box = table.bounding_box()
    assert box
    page.mouse.click(box["x"] + column, box["y"] + 35 * (row + 1.5))
    for key in keys:
        page.keyboard.press(key)
        page.wait_for_timeout(150)


def test_one_table_pins_a_layer_and_a_kind(tab: Page) -> None:
    table = tab.get_by_test_id("stDataFrame").filter(has=tab.locator("canvas")).nth(-2)
    edit(tab, table, 240, 1, ["Enter", "6", "Enter"])  # all qkv
    until(tab, lambda: all(bits(tab)[f"blocks.{b}.attn.qkv"] == "6/6" for b in range(12)))
    expect(tab.locator(".cell.pinned")).to_have_count(12)
    tab.get_by_role("button", name="Undo").click()
    expect(tab.locator(".cell.pinned")).to_have_count(0)


def test_the_frontier_greys_what_pins_forbid_and_goes_where_it_is_clicked(tab: Page) -> None:
    cell(tab, "blocks.0.mlp.fc1").click()
    for _ in range(2):
        tab.get_by_role("button", name=re.compile("^.*Pin at")).last.click()
        tab.wait_for_timeout(1000)
    expect(tab.locator("rect.grey title")).to_have_text(re.compile("keep every allocation above this"), timeout=60_000)
    svg = tab.locator("svg[data-at]")
    box = svg.bounding_box()
    assert box
    tab.mouse.click(box["x"] + 0.7 * box["width"], box["y"] + 100)
    until(tab, lambda: float(number(tab, "Mean bits").input_value()) > 5)
    until(tab, lambda: float(svg.get_attribute("data-at") or 0) > 5)


def test_the_ten_minute_task(tab: Page) -> None:
    """Two budgets, three pins, and why a layer got its bits, with nothing but the page."""
    type_budget(tab, "Mean bits", "3.2")
    type_budget(tab, "Megabytes", "0.7")
    for layer in ("blocks.0.attn.qkv", "blocks.11.mlp.fc2", "blocks.5.attn.proj"):
        cell(tab, layer).click()
        expect(panel(tab).get_by_text(re.compile(rf"^{re.escape(layer)} has"))).to_be_visible()
        tab.get_by_role("button", name=re.compile("^.*Pin at")).last.click()
        expect(cell(tab, layer)).to_have_class(re.compile("pinned"))
    expect(tab.locator(".cell.pinned")).to_have_count(3)
    expect(tab.get_by_text(re.compile("^Pinned now: blocks.0.attn.qkv at .*, blocks.5.attn.proj at"))).to_be_visible()
    assert mean_bits(tab) <= 3.2
    cell(tab, "blocks.3.attn.qkv").click()
    expect(panel(tab).get_by_text(re.compile(r"^blocks\.3\.attn\.qkv has"))).to_be_visible()
    expect(tab.get_by_text("elsewhere").first).to_be_visible()


def test_a_budget_switched_on_at_what_is_used_binds_together_with_the_other(tab: Page) -> None:
    type_budget(tab, "Mean bits", "4")
    tab.get_by_text("Limit", exact=True).nth(1).click()
    expect(tab.get_by_text("Limited by mean bits and megabytes together.")).to_be_visible()
    expect(tab.get_by_text("No budget limits it")).to_have_count(0)
