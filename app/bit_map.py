"""The live heatmap of bits: one cell a layer, drawn once and then only where it changes; a click or Enter chooses.

Plotly draws the same map for notebooks and reports (`figures.bits_map`); while a budget is dragged it takes 40 ms for
each frame and cannot be clicked or walked by keyboard, which this can.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import streamlit as st

from lampq_engine.figures.grid import grid
from lampq_engine.figures.heatmaps import STEPS
from lampq_engine.figures.names import KIND_HELP, width
from lampq_engine.types import Bits, Layer

_HTML = """
<div class="root">
<div class="map" role="grid"></div>
<div class="line" aria-live="polite"></div>
<div class="legend"></div>
</div>
"""

_CSS = """
.map { display: grid; gap: 2px; font-family: var(--st-font); color: var(--st-text-color); font-size: 0.8rem;
  font-variant-numeric: tabular-nums; }
.head { text-align: center; opacity: 0.75; align-self: center; overflow: hidden; }
.side { text-align: right; padding-right: 0.4rem; align-self: center; white-space: nowrap; }
.cell { height: 1.75rem; display: flex; border: 0; padding: 0; border-radius: 3px; overflow: hidden; cursor: pointer;
  font: inherit; width: 100%; position: relative; background: none; }
.cell span { flex: 1; height: 100%; display: flex; align-items: center; justify-content: center; min-width: 0; }
.cell.alike span + span { display: none; }
.cell:focus-visible { outline: 3px solid var(--st-text-color); outline-offset: 1px; z-index: 2; }
.cell.chosen { box-shadow: 0 0 0 2px var(--st-background-color), 0 0 0 4px var(--st-primary-color); z-index: 1; }
.cell.changed::after { content: ""; position: absolute; right: 0; top: 0; border: 0.32rem solid transparent;
  border-top-color: #D55E00; border-right-color: #D55E00; }
.cell.pinned::before { content: ""; position: absolute; left: 2px; top: 2px; width: 0.42rem; height: 0.42rem;
  border-radius: 50%; background: #FFFFFF; border: 1px solid #000000; }
.line { min-height: 3.9rem; padding-top: 0.4rem; font-family: var(--st-font); color: var(--st-text-color);
  font-size: 0.85rem; }
.legend { min-height: 2.6rem; font-family: var(--st-font); color: var(--st-text-color); font-size: 0.75rem;
  opacity: 0.75; }
"""

_JS = """
const kept = new WeakMap();

function build(root, data, pick) {
  const map = root.querySelector(".map");
  map.replaceChildren();
  map.style.gridTemplateColumns = `max-content repeat(${data.columns.length}, minmax(0, 1fr))`;
  map.setAttribute("aria-label", data.label);
  const cells = new Map();
  const put = (tag, className, text, row, column) => {
    const element = document.createElement(tag);
    element.className = className;
    element.textContent = text;
    element.style.gridRow = row + 1;
    element.style.gridColumn = column + 1;
    map.append(element);
    return element;
  };
  data.rows.forEach((name, row) => put("div", "side", name, row, 0));
  data.columns.forEach((name, column) => put("div", "head", name, data.rows.length, column + 1));
  data.places.forEach(([row, column, name, about]) => {
    const cell = put("button", "cell", "", row, column + 1);
    cell.append(document.createElement("span"), document.createElement("span"));
    cell.type = "button";
    cell.tabIndex = -1;
    cell.setAttribute("role", "gridcell");
    cell.onclick = () => pick(name);
    cell.onmouseenter = cell.onfocus = () => { root.querySelector(".line").textContent = cell.dataset.about; };
    cell.onmouseleave = cell.onblur = () => { root.querySelector(".line").textContent = root.dataset.told; };
    cell.onkeydown = (event) => walk(event, cells, row, column);
    cells.set(name, { cell, row, column, name, about, shown: "" });
  });
  return { map, cells, layout: data.layout };
}

function walk(event, cells, row, column) {
  const way = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!way) return;
  event.preventDefault();
  const ahead = [...cells.values()].filter((other) => way[0] ? other.column === column && (other.row - row) * way[0] > 0
    : other.row === row && (other.column - column) * way[1] > 0);
  ahead.sort((a, b) => Math.abs(a.row - row) + Math.abs(a.column - column)
    - Math.abs(b.row - row) - Math.abs(b.column - column));
  if (ahead.length) ahead[0].cell.focus();
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".root");
  let drawn = kept.get(parentElement);
  if (!drawn || drawn.layout !== data.layout || !parentElement.contains(drawn.map)) {
    drawn = build(root, data, (name) => setTriggerValue("picked", name));
    kept.set(parentElement, drawn);
  }
  const pinned = new Set(data.pinned), changed = new Set(data.changed);
  const paint = (span, bits) => {
    const [fill, ink] = data.looks[bits > 8 ? 8 : bits - 1];
    span.textContent = bits > 8 ? "–" : bits;
    span.style.background = fill;
    span.style.color = ink;
  };
  const said = (bits) => bits > 8 ? "float" : `${bits} bits`;
  let first = true;
  for (const one of drawn.cells.values()) {
    const [weights, activations] = data.bits[one.name];
    const chosen = one.name === data.chosen;
    const state = [weights, activations, chosen, pinned.has(one.name), changed.has(one.name)].join();
    if (state !== one.shown) {
      one.shown = state;
      const [left, right] = one.cell.children;
      paint(left, weights);
      paint(right, activations);
      one.cell.className = ["cell", weights === activations && "alike", chosen && "chosen",
        pinned.has(one.name) && "pinned", changed.has(one.name) && "changed"].filter(Boolean).join(" ");
      one.cell.dataset.about = `${one.name}: ${said(weights)} weights, ${said(activations)} activations`
        + (pinned.has(one.name) ? ", pinned" : "") + (changed.has(one.name) ? ", changed by the last step" : "")
        + `. ${one.about}`;
      one.cell.setAttribute("aria-label", one.cell.dataset.about);
      one.cell.setAttribute("aria-selected", chosen);
    }
    one.cell.tabIndex = chosen || (first && !data.bits[data.chosen]) ? 0 : -1;
    first = false;
  }
  const line = parentElement.querySelector(".line");
  if (root.dataset.told !== data.told) line.textContent = root.dataset.told = data.told;
  root.querySelector(".legend").textContent = data.legend;
}
"""

_COMPONENT = st.components.v2.component("lampq_bit_map", html=_HTML, css=_CSS, js=_JS)
LEGEND = (
    "One number: weights and activations alike; two: weights, then activations. Dot: pinned. Corner: changed by the "
    "last step. Click a cell, or walk with arrow keys and press Enter, to ask why it has its width, and to pin it."
)
DARK = 5  # widths below this stand on dark colours and are written in white


def layout_of(layers: Sequence[Layer]) -> dict[str, Any]:
    """Where each layer stands: what is sent to the browser beside the bits."""
    table = grid(layers)
    places = [
        [table.rows.index(row), table.columns.index(column), layer.name, KIND_HELP[layer.kind].capitalize() + "."]
        for (row, column), layer in table.places.items()
    ]
    looks = [[color, "#FFFFFF" if level + 1 < DARK else "#000000"] for level, color in enumerate(STEPS)]
    names = ",".join(layer.name for layer in layers)
    return {"rows": table.rows, "columns": table.columns, "places": places, "looks": looks, "layout": names}


def bit_map(
    layout: Mapping[str, Any],
    bits: Mapping[str, Bits],
    *,
    chosen: str,
    pinned: Collection[str],
    changed: Collection[str],
    told: str,
    on_pick: Callable[[], None],
    key: str,
) -> None:
    """Draw the widths of every layer; `on_pick` runs when one is chosen, which `picked` then names."""
    spans = sorted({width(pair.weights) for pair in bits.values()})
    data = dict(layout) | {
        "bits": bits,
        "chosen": chosen,
        "pinned": list(pinned),
        "changed": list(changed),
        "legend": LEGEND,
        "told": told,
        "label": f"Bits of each layer over blocks and kinds of layer, weights from {spans[0]} to {spans[-1]}",
    }
    _COMPONENT(key=key, data=data, on_picked_change=on_pick)


def picked(key: str) -> str:
    """The layer that was just chosen in the map."""
    return str(st.session_state[key].picked or "")
