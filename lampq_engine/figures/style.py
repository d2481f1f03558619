"""Colours and spacing of every figure: safe for colour-blind eyes, legible on light and on dark ground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

BLUE, SKY, GREEN, ORANGE, VERMILION, PURPLE, GREY = (
    "#1F77C9",
    "#56B4E9",
    "#009E73",
    "#E69F00",
    "#D55E00",
    "#B066A0",
    "#8A8F98",
)  # after Okabe and Ito

SEQUENTIAL = "Cividis"  # perceptually even, the same to colour-blind eyes


def figure(
    traces: Sequence[dict[str, Any]], *, height: int, title: str, left: int = 64, top: int = 36, **layout: Any
) -> go.Figure:
    """A figure of plain traces and layout with the house's spacing; `left` and `top` are margins in pixels.

    It is built at one stroke: validated whole, a figure takes 1 ms; changed step by step, 10 ms, which a drag feels.
    So are margins that Plotly works out by drawing the axes twice.
    """
    house = {
        "height": height,
        "margin": {"l": left, "r": 12, "t": top, "b": 48},
        "title": {"text": title, "font": {"size": 15}, "x": 0, "xanchor": "left", "y": 0.98, "yanchor": "top"},
        "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        "showlegend": False,
    }
    return go.Figure({"data": list(traces), "layout": house | layout})


def axis(title: str = "", **settings: Any) -> dict[str, Any]:
    """An axis within the margins of the figure."""
    return {"title": {"text": title, "standoff": 10}, "automargin": False, **settings}


def level(value: float, text: str, *, place: str = "bottom") -> dict[str, Any]:
    """A dashed line across a figure with its name at the left, above or below it: a shape with a label."""
    return {
        "type": "line",
        "xref": "x domain",
        "x0": 0,
        "x1": 1,
        "y0": value,
        "y1": value,
        "line": {"color": GREY, "dash": "dash", "width": 1.5},
        "label": {"text": text, "textposition": "start", "yanchor": place, "font": {"size": 11, "color": GREY}},
    }


def intervals(values: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> dict[str, Any]:
    """Error bars from low to high around each value."""
    return {
        "type": "data",
        "array": [high - value for value, high in zip(values, highs, strict=True)],
        "arrayminus": [value - low for value, low in zip(values, lows, strict=True)],
        "thickness": 1.5,
        "width": 4,
    }


def enlarged(drawn: go.Figure, *, height: int = 620) -> go.Figure:
    """A figure in large type, for a screen that others look at; its title is left to the slide."""
    font, plain = {"size": 22}, drawn.to_plotly_json()
    layout, data = plain["layout"], plain["data"]
    for name in [name for name in layout if name.startswith(("xaxis", "yaxis"))]:
        title = layout[name].get("title", {}) | {"font": font, "standoff": 16}
        layout[name] = layout[name] | {"tickfont": font, "title": title}
    for trace in data:
        if "colorbar" in trace:
            bar = trace["colorbar"]
            trace["colorbar"] = bar | {
                "tickfont": font,
                "title": bar.get("title", {}) | {"font": font},
                "thickness": 18,
            }
        if trace["type"] == "heatmap":
            trace["textfont"] = {"size": 24}
        elif trace["type"] == "scatter" and "marker" in trace:
            trace["marker"] = trace["marker"] | {"size": 1.6 * trace["marker"].get("size", 10)}
    shapes = [
        shape | {"label": shape["label"] | {"font": font}} if "label" in shape else shape
        for shape in layout.get("shapes", ())
    ]
    margin = layout["margin"] | {"l": 120, "b": 90, "t": 60}
    layout |= {"height": height, "font": font, "title": {"text": ""}, "margin": margin, "shapes": shapes}
    layout["legend"] = layout.get("legend", {}) | {"font": font}
    layout["hoverlabel"] = {"font": font}
    layout.pop("template", None)
    return go.Figure({"data": list(data), "layout": layout})
