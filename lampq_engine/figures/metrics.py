"""Metrics against each other: how alike their rankings are, layer by layer, and how sure a ranking is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from lampq_engine.figures.names import KIND_NAMES, METRIC_NAMES, METRIC_SHORT
from lampq_engine.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, axis, figure
from lampq_engine.traces import Rank, rank_correlation
from lampq_engine.types import Cell, Kind, Layer

LOOKS: dict[Kind, tuple[str, str]] = {
    "qkv": (BLUE, "circle"),
    "proj": (SKY, "square"),
    "fc1": (VERMILION, "diamond"),
    "fc2": (ORANGE, "cross"),
    "scores": (GREEN, "triangle-up"),
    "context": (PURPLE, "triangle-down"),
}
Scores = Mapping[str, Cell]


def agreement_map(tables: Mapping[str, Scores]) -> go.Figure:
    """Rank correlation of every two metrics over the layers that both score: 1 is the same order."""
    names = list(tables)
    harms = {name: {layer: cell.harm for layer, cell in table.items()} for name, table in tables.items()}
    values = [[rank_correlation(harms[a], harms[b]) for b in names] for a in names]
    shown = [[None if math.isnan(value) else value for value in row] for row in values]
    trace = {
        "type": "heatmap",
        "z": shown,
        "x": [METRIC_SHORT[name] for name in names],
        "y": [METRIC_SHORT[name] for name in names],
        "zmin": -1,
        "zmax": 1,
        "colorscale": "Cividis",
        "texttemplate": "%{z:.2f}",
        "hovertemplate": "%{y} and %{x}: %{z:.2f}<extra></extra>",
        "colorbar": {"thickness": 10},
        "xgap": 2,
        "ygap": 2,
    }
    plain: dict[str, Any] = {"fixedrange": True, "showgrid": False}
    return figure(
        [trace], height=360, title="Rank correlation", xaxis=axis(**plain), yaxis=axis(autorange="reversed", **plain)
    )


def metric_scatter(layers: Sequence[Layer], across: str, up: str, tables: Mapping[str, Scores]) -> go.Figure:
    """One metric against another, a point for each layer that both score, with standard errors."""
    kinds = dict.fromkeys(layer.kind for layer in layers)
    traces = [
        _points(kind, [layer for layer in layers if layer.kind == kind], tables[across], tables[up]) for kind in kinds
    ]
    return figure(
        [trace for trace in traces if trace["x"]],
        height=360,
        title=f"{METRIC_NAMES[up]} against {METRIC_NAMES[across]}",
        top=64,
        showlegend=True,
        xaxis=axis(METRIC_NAMES[across], type="log", exponentformat="power", dtick=1),
        yaxis=axis(METRIC_NAMES[up], type="log", exponentformat="power", dtick=1),
    )


def _points(kind: Kind, layers: Sequence[Layer], across: Scores, up: Scores) -> dict[str, Any]:
    both = [layer.name for layer in layers if _positive(across, layer.name) and _positive(up, layer.name)]
    color, symbol = LOOKS.get(kind, (GREY, "x"))
    return {
        "type": "scatter",
        "name": KIND_NAMES[kind],
        "x": [across[name].harm for name in both],
        "y": [up[name].harm for name in both],
        "error_x": {"type": "data", "array": [across[name].error for name in both], "thickness": 1, "width": 0},
        "error_y": {"type": "data", "array": [up[name].error for name in both], "thickness": 1, "width": 0},
        "mode": "markers",
        "marker": {"color": color, "symbol": symbol, "size": 8},
        "customdata": both,
        "hovertemplate": "<b>%{customdata}</b><br>%{x:.3g}, %{y:.3g}<extra></extra>",
    }


def _positive(table: Scores, name: str) -> bool:
    return name in table and table[name].harm > 0


def rank_ranges(ranks: Sequence[Rank], most: int = 30) -> go.Figure:
    """Ranks of the most sensitive layers, and the middle 90 % of their ranks under resampling of the images."""
    shown = ranks[:most]
    trace = {
        "type": "scatter",
        "x": [rank.rank for rank in shown],
        "y": [rank.layer for rank in shown],
        "error_x": {
            "type": "data",
            "array": [rank.high - rank.rank for rank in shown],
            "arrayminus": [rank.rank - rank.low for rank in shown],
            "thickness": 2,
            "width": 3,
            "color": SKY,
        },
        "mode": "markers",
        "marker": {"color": BLUE, "size": 8},
        "customdata": [[rank.low, rank.high] for rank in shown],
        "hovertemplate": "<b>%{y}</b><br>rank %{x}, %{customdata[0]} to %{customdata[1]}<extra></extra>",
    }
    return figure(
        [trace],
        height=100 + 18 * len(shown),
        title="Ranks under resampling",
        left=150,
        xaxis=axis("rank, 1 the most sensitive", fixedrange=True),
        yaxis=axis(autorange="reversed", fixedrange=True, tickfont={"size": 11}),
    )
