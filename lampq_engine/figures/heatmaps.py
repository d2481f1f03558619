"""Heatmaps over block x kind: how sensitive each layer is, and how many bits it was given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import plotly.graph_objects as go

from lampq_engine.figures.grid import Grid, grid
from lampq_engine.figures.names import KIND_HELP, METRIC_NAMES, number, width
from lampq_engine.figures.style import SEQUENTIAL, axis, figure
from lampq_engine.types import FLOAT_BITS, Bits, Cell, Layer, Sensitivity

ROW_HEIGHT = 30
FLOAT_LEVEL = 9  # where a layer left in float stands on the colour scale, one above 8 bits

# eight steps of Viridis from few bits (dark) to many (light), which colour-blind eyes can tell, then grey for float
STEPS = ("#440154", "#46327E", "#365C8D", "#277F8E", "#1FA187", "#4AC16D", "#A0DA39", "#FDE725", "#B9BEC6")


def scores(sensitivity: Sensitivity, bits: Bits | None = None) -> dict[str, Cell]:
    """What a sensitivity map shows of each layer: the width-free score, or the harm at `bits`.

    A metric without width-free scores shows the harm at its narrowest pair of widths.
    """
    if bits is None and sensitivity.raw:
        return {name: Cell(score, sensitivity.raw_error.get(name, 0.0)) for name, score in sensitivity.raw.items()}
    found = {}
    for name, row in sensitivity.cells.items():
        pair = bits or min(row)
        if pair in row:
            found[name] = row[pair]
    return found


def sensitivity_map(
    layers: Sequence[Layer], sensitivity: Sensitivity, *, bits: Bits | None = None, log: bool = True
) -> go.Figure:
    """Heatmap of a metric over block x kind; value, standard error and layer on hover.

    Colours follow the logarithm where `log`, since sensitivities span orders of magnitude.
    """
    cells, layout = scores(sensitivity, bits), grid(layers)
    layout = _only(layout, cells)
    shade = {name: _shade(cell.harm, log) for name, cell in cells.items()}
    texts = {name: _cell_text(cell, sensitivity.unit) for name, cell in cells.items()}
    present = [value for value in shade.values() if value is not None]
    trace = _trace(layout, shade, texts) | {
        "colorscale": SEQUENTIAL,
        "colorbar": _colorbar(present, log, sensitivity.unit),
    }
    return _drawn(trace, layout, METRIC_NAMES.get(sensitivity.metric, sensitivity.metric))


def bits_map(
    layers: Sequence[Layer], bits: Mapping[str, Bits], *, side: Literal["weights", "activations"] = "weights"
) -> go.Figure:
    """Heatmap of the weight or of the activation widths over block x kind, the width written in each cell.

    A matmul has no weights: its `weights` side is its right operand.
    """
    layout = grid(layers)
    chosen = {name: getattr(pair, side) for name, pair in bits.items()}
    level = {name: FLOAT_LEVEL if b == FLOAT_BITS else b for name, b in chosen.items()}
    written = {name: "–" if b == FLOAT_BITS else str(b) for name, b in chosen.items()}
    texts = {
        name: f"{width(p.weights)} weight bits, {width(p.activations)} activation bits" for name, p in bits.items()
    }
    trace = _trace(layout, level, texts) | {
        "text": [[text or "" for text in row] for row in layout.table(written)],
        "texttemplate": "%{text}",
        "colorscale": _steps(),
        "zmin": 0.5,
        "zmax": FLOAT_LEVEL + 0.5,
        "showscale": False,
    }
    return _drawn(trace, layout, side.capitalize())


def _trace(layout: Grid, values: Mapping[str, float | None], texts: Mapping[str, str]) -> dict[str, Any]:
    """A heatmap of `values`, with the layer and its text on hover."""
    return {
        "type": "heatmap",
        "z": layout.table(values),
        "x": layout.columns,
        "y": layout.rows,
        "customdata": _hover(layout, texts),
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": False,
        "xgap": 2,
        "ygap": 2,
    }


def _drawn(trace: dict[str, Any], layout: Grid, title: str) -> go.Figure:
    plain: dict[str, Any] = {
        "type": "category",
        "categoryorder": "array",
        "showgrid": False,
        "ticks": "",
        "fixedrange": True,
    }
    across = axis("block", categoryarray=layout.columns, tickangle=0, **plain)
    down = axis(categoryarray=layout.rows, autorange="reversed", **plain)
    height = 88 + ROW_HEIGHT * len(layout.rows)
    return figure([trace], height=height, title=title, xaxis=across, yaxis=down)


def _only(layout: Grid, cells: Mapping[str, Cell]) -> Grid:
    """The map without rows in which nothing was scored."""
    rows = {row for (row, _), layer in layout.places.items() if layer.name in cells}
    return Grid(tuple(row for row in layout.rows if row in rows), layout.columns, layout.places)


def _shade(value: float, log: bool) -> float | None:
    if not log:
        return value
    return math.log10(value) if value > 0 else None


def _cell_text(cell: Cell, unit: str) -> str:
    return f"{number(cell.harm)} ± {number(cell.error)} {unit}" if cell.error else f"{number(cell.harm)} {unit}"


def _hover(layout: Grid, texts: Mapping[str, str]) -> list[list[object]]:
    layers = layout.places.values()
    words = {layer.name: f"<b>{layer.name}</b><br>{KIND_HELP[layer.kind]}<br>" for layer in layers}
    return layout.table({name: words[name] + texts[name] for name in texts if name in words})


def _colorbar(values: Sequence[float], log: bool, unit: str) -> dict[str, object]:
    bar: dict[str, object] = {"thickness": 10, "outlinewidth": 0, "title": {"text": unit, "side": "right"}}
    if log and values:
        low, high = min(values), max(values)
        ticks = [low + (high - low) * i / 3 for i in range(4)]
        bar |= {"tickvals": ticks, "ticktext": [number(10**tick) for tick in ticks]}
    return bar


def _steps() -> list[tuple[float, str]]:
    count = len(STEPS)
    return [(edge / count, color) for i, color in enumerate(STEPS) for edge in (i, i + 1)]
