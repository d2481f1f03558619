"""Colours and spacing of every figure: safe for colour-blind eyes, legible on light and on dark ground."""

from __future__ import annotations

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

MARGIN = {"l": 8, "r": 8, "t": 36, "b": 8}


def figure(height: int, *, title: str = "", **layout: Any) -> go.Figure:
    """An empty figure with the house's margins; axes make room for their labels."""
    fig = go.Figure()
    legend = {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "xanchor": "left", "title": {"text": ""}}
    fig.update_layout(
        height=height,
        margin=MARGIN if title else {**MARGIN, "t": 12},
        title={"text": title, "font": {"size": 15}, "x": 0, "xanchor": "left", "y": 0.98, "yanchor": "top"},
        hoverlabel={"align": "left"},
        legend=legend,
        **layout,
    )
    return fig
