"""The budget slider: it tells Python every step of a drag, where `st.slider` tells only its end."""

from __future__ import annotations

import math

import streamlit as st

from lampq_engine.allocate import UNITS
from lampq_engine.figures.names import BUDGET_NAMES
from lampq_engine.plain import help_of
from lampq_engine.recipe import Budgets

DIGITS = {"mean_bits": 2, "mean_activation_bits": 2, "megabytes": 3, "gbops": 3}

_HTML = """
<label class="row">
  <span class="label"></span>
  <output class="value"></output>
  <input type="range" />
  <span class="ends"><span class="low"></span><span class="high"></span></span>
</label>
"""

_CSS = """
.row { display: block; min-width: 16rem; font-family: var(--st-font); color: var(--st-text-color); }
.label { font-size: 0.875rem; }
.value { float: right; font-size: 0.95rem; font-weight: 600; font-variant-numeric: tabular-nums; }
input { width: 100%; height: 1.5rem; margin: 0.35rem 0 0.15rem; cursor: pointer; appearance: none;
  background: transparent; }
input::-webkit-slider-runnable-track { height: 0.5rem; border-radius: 0.25rem;
  background: linear-gradient(to right, var(--st-primary-color) var(--share), var(--st-border-color) var(--share)); }
input::-moz-range-track { height: 0.5rem; border-radius: 0.25rem;
  background: linear-gradient(to right, var(--st-primary-color) var(--share), var(--st-border-color) var(--share)); }
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
"""

_JS = """
const seen = new WeakMap();

export default function ({ data, parentElement, setStateValue }) {
  const find = (name) => parentElement.querySelector(name);
  const input = find("input");
  const show = (value) => {
    find(".value").textContent = `${Number(value).toFixed(data.digits)} ${data.unit}`;
    input.setAttribute("aria-valuetext", find(".value").textContent);
    const share = (value - data.low) / (data.high - data.low || 1);
    input.style.setProperty("--share", `${100 * Math.min(1, Math.max(0, share))}%`);
  };
  find(".label").textContent = data.label;
  find(".low").textContent = `${data.low.toFixed(data.digits)} ${data.unit}`;
  find(".high").textContent = `${data.high.toFixed(data.digits)} ${data.unit}`;
  input.min = data.low;
  input.max = data.high;
  input.step = data.step;
  input.setAttribute("aria-label", data.label);
  // a value set from Python moves the thumb once; a drag in progress is never pulled back
  if (seen.get(parentElement) !== data.revision) {
    seen.set(parentElement, data.revision);
    input.value = data.value;
    show(data.value);
  }
  input.oninput = () => {
    show(input.value);
    setStateValue("value", Number(input.value));
  };
}
"""

_COMPONENT = st.components.v2.component("lampq_budget_slider", html=_HTML, css=_CSS, js=_JS)


def budget_slider(budget: str, *, low: float, high: float, key: str) -> float:
    """The budget that a session chose between `low` and `high`, by a drag, by arrow keys or as a number.

    A quarter of the range until it is chosen. A number may be typed beyond the range.
    """
    digits = DIGITS[budget]
    low, high = (math.ceil(edge * 10**digits - 1e-6) / 10**digits for edge in (low, high))
    value = st.session_state.setdefault(key, round(low + 0.25 * (high - low), digits))
    st.session_state.setdefault(f"number-{key}", value)
    with st.container(border=True, horizontal=True, vertical_alignment="center", gap="medium"):
        data = {"label": f"{BUDGET_NAMES[budget]} at most", "unit": UNITS[budget], "digits": digits}
        data |= {"low": low, "high": high, "step": 10.0**-digits, "value": value}
        # the value moves the thumb only when this changes, so that answers from here never fight a hand on it
        data["revision"] = f"{key} {low} {high} {st.session_state.get(f'typed-{key}', 0)}"
        _COMPONENT(key=f"slider-{key}", data=data, on_value_change=lambda: _moved(key, digits))
        st.number_input(
            "As a number",
            width=170,
            min_value=0.0,
            step=10.0 ** (1 - digits),
            format=f"%.{digits}f",
            key=f"number-{key}",
            on_change=_typed,
            args=(key,),
            help=help_of(Budgets, budget).capitalize() + ".",
        )
    return float(st.session_state[key])


def _moved(key: str, digits: int) -> None:
    """The slider was dragged: its value is the budget, and the number follows."""
    value = st.session_state[f"slider-{key}"].value
    if value is not None:
        st.session_state[key] = st.session_state[f"number-{key}"] = round(float(value), digits)


def _typed(key: str) -> None:
    """A number was typed: the slider's thumb follows."""
    value = st.session_state[f"number-{key}"]
    if value:
        st.session_state[key] = float(value)
        st.session_state[f"typed-{key}"] = st.session_state.get(f"typed-{key}", 0) + 1
