"""What an allocation costs, by kind of layer: megabytes of the packed file and bit operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from lampq_engine.cost import CostModel
from lampq_engine.figures.names import KIND_NAMES
from lampq_engine.figures.style import BLUE, ORANGE, axis, figure
from lampq_engine.types import FLOAT_BITS, KINDS, Bits


@dataclass(frozen=True)
class Share:
    """What one kind of layer adds to the cost."""

    name: str
    megabytes: float
    gbops: float


def shares(costs: CostModel, bits: Mapping[str, Bits]) -> list[Share]:
    """Cost by kind, and what the file holds beside the layers; the shares add up to the whole cost."""
    total: dict[str, list[float]] = {}
    for layer in costs.layers:
        terms = costs.terms(layer, bits.get(layer.name, Bits(FLOAT_BITS, FLOAT_BITS)))
        row = total.setdefault(layer.kind, [0.0, 0.0])
        row[0] += terms["megabytes"]
        row[1] += terms["gbops"]
    found = [Share(KIND_NAMES[kind], *total[kind]) for kind in KINDS if kind in total]
    return [*found, Share("norms, biases", costs.constant["megabytes"], 0.0)]


def cost_bars(costs: CostModel, bits: Mapping[str, Bits]) -> go.Figure:
    """Two rows of bars over the kinds of layers: megabytes and GBOPs."""
    rows = shares(costs, bits)
    bars = (
        _bars(rows, "MB", BLUE, [row.megabytes for row in rows], "x"),
        _bars(rows, "GBOPs", ORANGE, [row.gbops for row in rows], "x2"),
    )
    across = {"fixedrange": True, "nticks": 4, "rangemode": "tozero"}
    return figure(
        bars,
        height=88 + 30 * len(rows),
        title="Cost by kind of layer",
        left=92,
        bargap=0.3,
        xaxis=axis("MB", domain=[0, 0.47], **across),
        xaxis2=axis("GBOPs", domain=[0.53, 1], anchor="y", **across),
        yaxis=axis(autorange="reversed", fixedrange=True, showgrid=False),
    )


def _bars(rows: Sequence[Share], unit: str, color: str, values: Sequence[float], across: str) -> dict[str, Any]:
    return {
        "type": "bar",
        "x": list(values),
        "y": [row.name for row in rows],
        "orientation": "h",
        "marker": {"color": color},
        "xaxis": across,
        "yaxis": "y",
        "hovertemplate": "%{y}: %{x:.3g} " + unit + "<extra></extra>",
        "text": [f"{value:.2g}" if value > 0.01 * max(values) else "" for value in values],
        "textposition": "auto",
        "textangle": 0,
    }
