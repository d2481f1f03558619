"""The live frontier: a curve drawn once, a marker that moves on it, and greyed parts that say why they are grey."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from lampq_engine.figures.names import COST_AXES
from lampq_engine.frontier import Point, Span
from lampq_engine.types import Allocation

_HTML = """<svg role="img"></svg><div class="line"></div>"""

_CSS = """
svg { display: block; width: 100%; height: 17rem; font-family: var(--st-font); font-size: 11px; cursor: crosshair;
  overflow: visible; }
text { fill: var(--st-text-color); }
.axis { stroke: var(--st-border-color); stroke-width: 1; }
.curve { fill: none; stroke: #56B4E9; stroke-width: 2; }
.point { fill: #56B4E9; }
.grey { fill: var(--st-text-color); opacity: 0.16; }
.pale { fill: var(--st-text-color); opacity: 0.06; }
.marker { fill: #D55E00; stroke: var(--st-background-color); stroke-width: 2; }
.line { min-height: 2.6rem; font-family: var(--st-font); font-size: 0.8rem; color: var(--st-text-color);
  opacity: 0.85; }
"""

_JS = """
const kept = new WeakMap();
const LEFT = 58, RIGHT = 12, TOP = 10, BOTTOM = 38;

function element(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function short(value) {
  const plain = Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5;
  return plain ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}

function draw(root, data) {
  const svg = root.querySelector("svg"), wide = svg.clientWidth || 500, high = svg.clientHeight || 255;
  const ys = data.points.map((point) => point[1]).filter((y) => y > 0);
  const low = Math.log10(Math.min(...ys, 1)), top = Math.log10(Math.max(...ys, 1e-9));
  const x = (value) => LEFT + (wide - LEFT - RIGHT) * (value - data.low) / (data.high - data.low || 1);
  const y = (value) => TOP + (high - TOP - BOTTOM) * (top - Math.log10(Math.max(value, 10 ** low))) / (top - low || 1);
  svg.replaceChildren();
  for (const [from, to, reason, feasible] of data.spans) {
    const zone = element("rect", { x: x(from), y: TOP, width: Math.max(1, x(to) - x(from)), height: high - TOP - BOTTOM,
      class: feasible ? "pale" : "grey" });
    zone.append(element("title", {}, reason));
    svg.append(zone);
  }
  for (let i = 0; i <= 4; i++) {
    const value = data.low + (data.high - data.low) * i / 4;
    svg.append(element("text", { x: x(value), y: high - BOTTOM + 15, "text-anchor": "middle" }, short(value)));
    const harm = 10 ** (low + (top - low) * i / 4);
    svg.append(element("line", { x1: LEFT, x2: wide - RIGHT, y1: y(harm), y2: y(harm), class: "axis" }));
    if (ys.length) svg.append(element("text", { x: LEFT - 6, y: y(harm) + 4, "text-anchor": "end" }, short(harm)));
  }
  svg.append(element("text", { x: (LEFT + wide) / 2, y: high - 6, "text-anchor": "middle" }, data.across));
  svg.append(element("text", { x: 11, y: (high - BOTTOM) / 2, "text-anchor": "middle",
    transform: `rotate(-90 11 ${(high - BOTTOM) / 2})` }, `predicted harm (${data.unit})`));
  svg.append(element("polyline", { class: "curve", points: data.points.map(([a, b]) => `${x(a)},${y(b)}`).join(" ") }));
  for (const [a, b] of data.points) {
    const dot = element("circle", { class: "point", cx: x(a), cy: y(b), r: 2.5 });
    dot.append(element("title", {}, `${short(a)}: harm ${short(b)}`));
    svg.append(dot);
  }
  const marker = element("circle", { class: "marker", r: 7 });
  svg.append(marker);
  const back = (px) => data.low + (px - LEFT) / (wide - LEFT - RIGHT) * (data.high - data.low);
  return { svg, marker, x, y, wide, back, revision: data.revision };
}

export default function ({ data, parentElement, setTriggerValue }) {
  let drawn = kept.get(parentElement);
  const svg = parentElement.querySelector("svg");
  if (!drawn || drawn.revision !== data.revision || drawn.svg !== svg || drawn.wide !== svg.clientWidth) {
    drawn = draw(parentElement, data);
    kept.set(parentElement, drawn);
  }
  const [a, b] = data.here;
  drawn.marker.setAttribute("cx", drawn.x(a));
  drawn.marker.setAttribute("cy", drawn.y(b));
  svg.dataset.at = a;
  svg.setAttribute("aria-label", data.label);
  svg.onclick = (event) => {
    const value = drawn.back(event.clientX - svg.getBoundingClientRect().left);
    if (value > data.low && value < data.high) setTriggerValue("budget", value);
  };
  parentElement.querySelector(".line").textContent = data.note;
}
"""

_COMPONENT = st.components.v2.component("lampq_frontier", html=_HTML, css=_CSS, js=_JS)


def frontier_line(
    points: Sequence[Point],
    spans: Sequence[Span],
    here: Allocation,
    *,
    budget: str,
    unit: str,
    low: float,
    high: float,
    on_pick: Callable[[], None],
    key: str,
) -> None:
    """Draw the frontier along one budget from `low` to `high`, and where `here` stands on it."""
    solved = [point.allocation for point in points if point.allocation]
    data = {
        "points": [[getattr(one.cost, budget), one.solution.harm] for one in solved],
        "spans": [[span.low, span.high, span.reason, span.feasible] for span in spans],
        "here": [getattr(here.cost, budget), here.solution.harm],
        "low": low,
        "high": high,
        "across": COST_AXES[budget],
        "unit": unit,
        "note": " ".join(f"{'Pale' if s.feasible else 'Grey'}: {s.reason}" for s in spans)
        or ("" if points else "The frontier is being solved."),
        "label": f"Least harm against {COST_AXES[budget]}, {len(solved)} exact solutions; here "
        f"{getattr(here.cost, budget):.4g} with harm {here.solution.harm:.3g}",
    }
    data["revision"] = f"{budget} {low} {high} {len(points)} {hash(tuple(map(tuple, data['points'])))}"  # type: ignore[arg-type]
    _COMPONENT(key=key, data=data, on_budget_change=on_pick)


def picked(key: str) -> float | None:
    """The budget at which the curve was just clicked."""
    value = st.session_state[key].budget
    return None if value is None else float(value)
