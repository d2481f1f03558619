"""Close looks as figures: weights on their grid, input ranges by channel, error against bits, attention on an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from lampq_engine.figures.style import BLUE, GREEN, ORANGE, SEQUENTIAL, SKY, VERMILION, axis, figure
from lampq_engine.inspection import ImageView, LayerView, Operand

HEIGHT = 300
FEW = 64  # channels that are drawn as bars


def weight_histogram(view: LayerView) -> go.Figure:
    """The weights of a layer, and the levels they are rounded to in the channel of median range."""
    middles = [(low + high) / 2 for low, high in zip(view.edges, view.edges[1:], strict=False)]
    bars = {
        "type": "bar",
        "x": middles,
        "y": view.counts,
        "marker": {"color": SKY},
        "hovertemplate": "%{x:.3g}: %{y} weights<extra></extra>",
    }
    lines = [
        {"type": "line", "yref": "y domain", "y0": 0, "y1": 1, "x0": level, "x1": level, "line": _thin(VERMILION)}
        for level in view.grid
    ]
    return figure(
        [bars],
        height=HEIGHT,
        title=f"Weights and their {len(view.grid)} levels",
        shapes=lines,
        bargap=0,
        xaxis=axis("weight", fixedrange=True),
        yaxis=axis("count", fixedrange=True, type="log", exponentformat="power", dtick=1),
    )


def _thin(color: str) -> dict[str, Any]:
    return {"color": color, "width": 1}


def input_ranges(operand: Operand) -> go.Figure:
    """Range of each channel of an input, its inner 98 %, and the quantizer's one range for all of them."""
    channels = list(range(len(operand.low)))
    outer = _band("all values", channels, operand.low, operand.high, "rgba(86, 180, 233, 0.35)")
    inner = _band("98 % of values", channels, operand.bulk_low, operand.bulk_high, "rgba(31, 119, 201, 0.75)")
    clips = [
        {"type": "line", "xref": "x domain", "x0": 0, "x1": 1, "y0": end, "y1": end, "line": _thin(VERMILION)}
        for end in (operand.clip_low, operand.clip_high)
        if end is not None
    ]
    return figure(
        [*outer, *inner],
        height=HEIGHT,
        title=f"Range of the {operand.name} by channel",
        top=64,
        showlegend=True,
        barmode="overlay",
        shapes=clips,
        xaxis=axis("channel", fixedrange=True),
        yaxis=axis("value", fixedrange=True),
    )


def _band(
    name: str, across: Sequence[int], low: Sequence[float], high: Sequence[float], color: str
) -> list[dict[str, Any]]:
    """What lies between two lines; for a few channels a bar each."""
    if len(across) <= FEW:
        spans = [top - bottom for bottom, top in zip(low, high, strict=True)]
        bars = {"type": "bar", "x": list(across), "base": list(low), "y": spans, "name": name}
        return [bars | {"marker": {"color": color}, "hovertemplate": "channel %{x}: %{base:.3g} up<extra></extra>"}]
    look = {"type": "scatter", "x": list(across), "mode": "lines", "line": {"width": 0, "shape": "hvh"}}
    bottom = look | {"y": list(low), "showlegend": False, "hoverinfo": "skip"}
    top = look | {"y": list(high), "fill": "tonexty", "fillcolor": color, "name": name}
    top["hovertemplate"] = "channel %{x}: up to %{y:.3g}<extra></extra>"
    return [bottom, top]


def error_by_bits(view: LayerView) -> go.Figure:
    """Relative squared error of weight, input and output at every width."""
    looks = {"weight": (BLUE, "square"), "input": (ORANGE, "diamond"), "output": (GREEN, "circle")}
    lines = [
        {
            "type": "scatter",
            "name": name,
            "x": [error.bits for error in view.errors],
            "y": [getattr(error, name) or None for error in view.errors],
            "mode": "lines+markers",
            "line": {"color": color},
            "marker": {"symbol": symbol, "size": 8},
            "hovertemplate": f"%{{x}} bits: {name} %{{y:.3g}}<extra></extra>",
        }
        for name, (color, symbol) in looks.items()
    ]
    return figure(
        lines,
        height=HEIGHT,
        title="Relative squared error against bits",
        top=64,
        showlegend=True,
        xaxis=axis("bits", fixedrange=True, dtick=1),
        yaxis=axis("error", fixedrange=True, type="log", exponentformat="power", dtick=1),
    )


def attention_pair(view: ImageView, block: int) -> go.Figure:
    """How much attention each patch gets in one block, before and after quantization, on one colour scale."""
    before, after = view.maps[block]
    top = max(max(map(max, before)), max(map(max, after)))
    maps = [
        {
            "type": "heatmap",
            "z": rows,
            "zmin": 0,
            "zmax": top,
            "colorscale": SEQUENTIAL,
            "xaxis": f"x{place}",
            "yaxis": f"y{place}",
            "showscale": place == "2",
            "colorbar": {"thickness": 10, "title": {"text": "share", "side": "right"}},
            "hovertemplate": "%{z:.2%} of the attention<extra></extra>",
        }
        for place, rows in (("", before), ("2", after))
    ]
    blank: dict[str, Any] = {"visible": False, "fixedrange": True}
    named = [
        {"text": text, "x": x, "y": 1.02, "xref": "paper", "yref": "paper", "yanchor": "bottom", "showarrow": False}
        for text, x in (("float", 0.235), (f"quantized, {view.what}", 0.765))
    ]
    return figure(
        maps,
        height=HEIGHT + 40,
        title=f"Attention in block {view.blocks[block]}",
        top=64,
        left=12,
        annotations=named,
        xaxis={**blank, "domain": [0, 0.47], "constrain": "domain"},
        yaxis={**blank, "autorange": "reversed", "scaleanchor": "x", "constrain": "domain", "constraintoward": "top"},
        xaxis2={**blank, "domain": [0.53, 1], "anchor": "y2", "constrain": "domain"},
        yaxis2=blank
        | {"autorange": "reversed", "scaleanchor": "x2", "anchor": "x2"}
        | {"constrain": "domain", "constraintoward": "top"},
    )
