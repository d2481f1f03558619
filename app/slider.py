"""The card of one budget: a slider that tells every step of a drag, where `st.slider` tells only its end.

Its number and its switch are part of it: a number of Streamlit's own that follows the slider would answer, in the
middle of a drag, with values that it was given before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from lampq_engine.allocate import UNITS
from lampq_engine.figures.names import BUDGET_NAMES
from lampq_engine.plain import help_of
from lampq_engine.recipe import Budgets

DIGITS = {"mean_bits": 2, "mean_activation_bits": 2, "megabytes": 3, "gbops": 3}

_HTML = """
<label class="row">
  <span class="label"></span>
  <span class="right"><span class="binds"></span> <output class="value"></output></span>
  <input type="range" />
  <span class="ends"><span class="low"></span><span class="note"></span><span class="high"></span></span>
</label>
<div class="twin">
  <label><input type="checkbox" role="switch" /> Limit</label>
  <input type="number" min="0" placeholder="no limit" />
</div>
"""

_CSS = """
.row { display: block; min-width: 12rem; font-family: var(--st-font); color: var(--st-text-color); }
.label { font-size: 0.875rem; }
.right { float: right; }
.off .value, .off [type=range] { opacity: 0.55; }
.binds:not(:empty) { font-size: 0.72rem; padding: 0.05rem 0.4rem; border-radius: 0.6rem; color: #FFFFFF;
  background: #B34700; }
.value { font-size: 0.95rem; font-weight: 600; font-variant-numeric: tabular-nums; }
[type=range] { width: 100%; height: 1.5rem; margin: 0.35rem 0 0.15rem; cursor: pointer; appearance: none;
  background: transparent; }
input::-webkit-slider-runnable-track { height: 0.5rem; border-radius: 0.25rem;
  background: TRACK; }
input::-moz-range-track { height: 0.5rem; border-radius: 0.25rem;
  background: TRACK; }
input::-webkit-slider-thumb { appearance: none; width: 1.25rem; height: 1.25rem; margin-top: -0.375rem;
  border-radius: 50%; border: 3px solid var(--st-background-color); background: var(--st-primary-color);
  box-shadow: 0 0 0 1px var(--st-primary-color); }
input::-moz-range-thumb { width: 0.9rem; height: 0.9rem; border-radius: 50%;
  border: 3px solid var(--st-background-color); background: var(--st-primary-color);
  box-shadow: 0 0 0 1px var(--st-primary-color); }
input:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px;
  border-radius: var(--st-base-radius); }
.ends { display: flex; justify-content: space-between; font-size: 0.8rem; opacity: 0.7;
  font-variant-numeric: tabular-nums; }
.note { text-align: center; }
.twin { display: flex; align-items: center; gap: 0.8rem; margin-top: 0.55rem; font-size: 0.875rem;
  font-family: var(--st-font); color: var(--st-text-color); }
.twin label { display: flex; align-items: center; gap: 0.35rem; cursor: pointer; }
.twin [type=checkbox] { width: 1.05rem; height: 1.05rem; margin: 0; accent-color: var(--st-primary-color); }
.twin [type=number] { flex: 1; min-width: 0; height: 2.1rem; margin: 0; padding: 0 0.6rem; font: inherit; cursor: text;
  color: inherit; background: var(--st-secondary-background-color); border: 1px solid var(--st-border-color);
  border-radius: var(--st-base-radius); }
""".replace(
    # grey up to where something is feasible, then filled up to the thumb
    "TRACK",
    "linear-gradient(to right, color-mix(in srgb, var(--st-text-color) 45%, transparent) var(--floor), "
    "var(--st-primary-color) var(--floor) max(var(--floor), var(--share)), "
    "var(--st-border-color) max(var(--floor), var(--share)))",
)

_JS = """
// by key and not by element, since the page may make the element anew while a hand is on it
const seen = new Map(), ends = new Map();
const PAUSE = 350;  // ms without a step after which a walk by arrow keys has ended

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  const find = (name) => parentElement.querySelector(name);
  const input = find("[type=range]"), number = find("[type=number]"), limit = find("[type=checkbox]");
  const share = (value) => `${100 * Math.min(1, Math.max(0, (value - data.low) / (data.high - data.low || 1)))}%`;
  const show = (value, on) => {
    find(".value").textContent = on ? `${Number(value).toFixed(data.digits)} ${data.unit}` : "no limit";
    input.setAttribute("aria-valuetext", `${find(".value").textContent}, ${data.note}`);
    input.style.setProperty("--share", share(value));
    find(".row").classList.toggle("off", !on);
    limit.checked = on;
    if (parentElement.getRootNode().activeElement !== number || !on) {
      number.value = on ? Number(value).toFixed(data.digits) : "";
    }
  };
  find(".label").textContent = data.name;
  find(".low").textContent = data.low.toFixed(data.digits);
  find(".high").textContent = data.high.toFixed(data.digits);
  find(".note").textContent = data.note;
  find(".binds").textContent = data.binds ? "binds" : "";
  input.min = data.low;
  input.max = data.high;
  input.step = data.step;
  input.style.setProperty("--floor", share(data.floor));
  input.title = data.reason;
  input.setAttribute("aria-label", data.label);
  number.setAttribute("aria-label", data.label);
  limit.setAttribute("aria-label", `Limit ${data.label}`);
  limit.parentElement.title = number.title = data.help;
  number.step = 10 * data.step;
  // a value set from Python moves the thumb only when it says so; a drag in progress is never pulled back
  if (seen.get(data.key)?.revision !== data.revision) {
    seen.set(data.key, { revision: data.revision, value: data.value, on: data.on });
    input.dataset.set = "";
  }
  if (input.dataset.set !== data.revision) {
    const last = seen.get(data.key);
    input.dataset.set = data.revision;
    input.value = last.value;
    show(last.value, last.on);
  }
  input.oninput = () => {
    clearTimeout(ends.get(data.key));
    Object.assign(seen.get(data.key), { value: input.value, on: true });
    show(input.value, true);
    setStateValue("value", Number(input.value));
  };
  input.onchange = () => {
    clearTimeout(ends.get(data.key));
    ends.set(data.key, setTimeout(() => setTriggerValue("settled", Number(input.value)), PAUSE));
  };
  number.onchange = () => {
    number.blur();
    setTriggerValue("typed", Number(number.value) || 0);
  };
  limit.onchange = () => setTriggerValue("switched", limit.checked ? 1 : 0);
}
"""

_COMPONENT = st.components.v2.component("lampq_budget_slider", html=_HTML, css=_CSS, js=_JS)


@dataclass(frozen=True)
class Dial:
    """What one budget's slider shows: its range, what is feasible of it, what is spent."""

    budget: str
    low: float
    high: float
    floor: float  # below it nothing is feasible
    reason: str  # why
    value: float | None  # None: no limit
    spent: float
    binds: bool
    revision: str  # the thumb moves to `value` when this changes


@dataclass(frozen=True)
class Moves:
    """What happens to the budget when a hand is on its card."""

    drag: Callable[[float], None]  # every step of the slider
    settle: Callable[[], None]  # its end
    type: Callable[[float], None]  # a number; 0 where it was emptied
    switch: Callable[[bool], None]


def budget_slider(dial: Dial, moves: Moves, *, key: str) -> None:
    """Draw the card of a budget; arrow keys move the slider, too."""
    digits = DIGITS[dial.budget]
    low, high = (ceil_to(edge, digits) for edge in (dial.low, dial.high))
    value = high if dial.value is None else dial.value
    room = None if dial.value is None else dial.value - dial.spent
    spent = f"uses {dial.spent:.{digits}f}"
    data = {
        "key": key,
        "name": BUDGET_NAMES[dial.budget],
        "label": f"{BUDGET_NAMES[dial.budget]} at most",
        "unit": UNITS[dial.budget],
        "digits": digits,
        "low": low,
        "high": high,
        "step": 10.0**-digits,
        "value": value,
        "on": dial.value is not None,
        "floor": dial.floor,
        "reason": dial.reason,
        "binds": dial.binds,
        "note": spent if room is None else f"{spent}, {max(0.0, room):.{digits}f} left",
        "help": help_of(Budgets, dial.budget).capitalize() + ". Budgets that are on must all hold at once.",
        "revision": f"{key} {low} {high} {dial.revision}",
    }
    _COMPONENT(
        key=key,
        data=data,
        on_value_change=lambda: _told(key, "value", lambda moved: moves.drag(round(moved, digits))),
        on_settled_change=lambda: _told(key, "settled", lambda _: moves.settle()),
        on_typed_change=lambda: _told(key, "typed", moves.type),
        on_switched_change=lambda: _told(key, "switched", lambda on: moves.switch(bool(on))),
    )


def _told(key: str, name: str, act: Callable[[float], None]) -> None:
    value = getattr(st.session_state[key], name)
    if value is not None:
        act(float(value))


def ceil_to(value: float, digits: int) -> float:
    """The least number of so many digits that is not below `value`."""
    return math.ceil(value * 10**digits - 1e-6) / 10**digits
