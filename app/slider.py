"""The budget slider: it tells Python every step of a drag, where `st.slider` tells only its end."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

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


def budget_slider(
    label: str,
    *,
    low: float,
    high: float,
    value: float,
    unit: str,
    digits: int,
    revision: str,
    key: str,
    on_change: Callable[[], None],
) -> None:
    """A slider whose every step calls `on_change`, which reads `st.session_state[key]["value"]`.

    `value` moves the thumb only when `revision` changes, so that answers from Python never fight a hand on it.
    """
    step = 10.0**-digits
    data = {"label": label, "low": low, "high": high, "value": value, "unit": unit, "digits": digits}
    _COMPONENT(key=key, data={**data, "step": step, "revision": revision}, on_value_change=on_change)
