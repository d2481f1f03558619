"""The budget slider: it tells Python every step of a drag, where `st.slider` tells only its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from lampq_engine.allocate import UNITS
from lampq_engine.figures.names import BUDGET_NAMES

DIGITS = {"mean_bits": 2, "mean_activation_bits": 2, "megabytes": 3, "gbops": 3}

_HTML = """
<label class="row">
  <span class="label"></span>
  <span class="right"><span class="binds"></span> <output class="value"></output></span>
  <input type="range" />
  <span class="ends"><span class="low"></span><span class="note"></span><span class="high"></span></span>
</label>
"""

_CSS = """
.row { display: block; min-width: 12rem; font-family: var(--st-font); color: var(--st-text-color); }
.label { font-size: 0.875rem; }
.right { float: right; }
.off .value, .off input { opacity: 0.55; }
.binds:not(:empty) { font-size: 0.72rem; padding: 0.05rem 0.4rem; border-radius: 0.6rem; color: #FFFFFF;
  background: #B34700; }
.value { font-size: 0.95rem; font-weight: 600; font-variant-numeric: tabular-nums; }
input { width: 100%; height: 1.5rem; margin: 0.35rem 0 0.15rem; cursor: pointer; appearance: none;
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
""".replace(
    # grey up to where something is feasible, then filled up to the thumb
    "TRACK",
    "linear-gradient(to right, color-mix(in srgb, var(--st-text-color) 45%, transparent) var(--floor), "
    "var(--st-primary-color) var(--floor) max(var(--floor), var(--share)), "
    "var(--st-border-color) max(var(--floor), var(--share)))",
)

_JS = """
const seen = new WeakMap(), ends = new WeakMap();
const PAUSE = 350;  // ms without a step after which a walk by arrow keys has ended

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  const find = (name) => parentElement.querySelector(name);
  const input = find("input");
  const share = (value) => `${100 * Math.min(1, Math.max(0, (value - data.low) / (data.high - data.low || 1)))}%`;
  const show = (value, on) => {
    find(".value").textContent = on ? `${Number(value).toFixed(data.digits)} ${data.unit}` : "no limit";
    input.setAttribute("aria-valuetext", `${find(".value").textContent}, ${data.note}`);
    input.style.setProperty("--share", share(value));
    find(".row").classList.toggle("off", !on);
  };
  find(".label").textContent = data.label;
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
  // a value set from Python moves the thumb only when it says so; a drag in progress is never pulled back
  if (seen.get(parentElement) !== data.revision) {
    seen.set(parentElement, data.revision);
    input.value = data.value;
    show(data.value, data.on);
  }
  input.oninput = () => {
    clearTimeout(ends.get(parentElement));
    show(input.value, true);
    setStateValue("value", Number(input.value));
  };
  input.onchange = () => {
    clearTimeout(ends.get(parentElement));
    ends.set(parentElement, setTimeout(() => setTriggerValue("settled", Number(input.value)), PAUSE));
  };
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


def budget_slider(dial: Dial, *, key: str, on_move: Callable[[float], None], on_settle: Callable[[], None]) -> None:
    """A slider for a budget, which tells every step of a drag and its end; arrow keys move it, too."""
    digits = DIGITS[dial.budget]
    low, high = (ceil_to(edge, digits) for edge in (dial.low, dial.high))
    value = high if dial.value is None else dial.value
    room = None if dial.value is None else dial.value - dial.spent
    spent = f"uses {dial.spent:.{digits}f}"
    data = {
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
        "revision": f"{key} {low} {high} {dial.revision}",
    }
    _COMPONENT(
        key=key,
        data=data,
        on_value_change=lambda: _told(key, "value", lambda moved: on_move(round(moved, digits))),
        on_settled_change=lambda: _told(key, "settled", lambda _: on_settle()),
    )


def _told(key: str, name: str, act: Callable[[float], None]) -> None:
    value = getattr(st.session_state[key], name)
    if value is not None:
        act(float(value))


def ceil_to(value: float, digits: int) -> float:
    """The least number of so many digits that is not below `value`."""
    return math.ceil(value * 10**digits - 1e-6) / 10**digits
