"""How the accuracy of each class changed between two models, with its interval."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from lampq_engine.compare import ClassChange
from lampq_engine.figures.style import BLUE, GREY, VERMILION, axis, figure

MOST = 40  # classes that one figure shows: those that lost most and those that gained most


def shown(changes: Sequence[ClassChange]) -> list[ClassChange]:
    """All classes where they are few; otherwise those that changed most, in the same order."""
    if len(changes) <= MOST:
        return list(changes)
    return [*changes[: MOST // 2], *changes[-MOST // 2 :]]


def class_change_bars(changes: Sequence[ClassChange]) -> go.Figure:
    """Points of accuracy each class lost or gained on the same images, with the paired 95 % interval."""
    rows = shown(changes)
    values = [row.paired.change for row in rows]
    error = {
        "type": "data",
        "array": [max(0.0, row.paired.high - value) for row, value in zip(rows, values, strict=True)],
        "arrayminus": [max(0.0, value - row.paired.low) for row, value in zip(rows, values, strict=True)],
        "thickness": 1,
        "width": 3,
        "color": GREY,
    }
    bars = {
        "type": "bar",
        "x": [row.name for row in rows],
        "y": values,
        "error_y": error,
        "marker": {"color": [VERMILION if value < 0 else BLUE for value in values]},
        "customdata": [
            [row.name, row.before, row.after, row.paired.images, row.paired.low, row.paired.high] for row in rows
        ],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]:.1f} % to %{customdata[2]:.1f} %, "
        "%{customdata[3]} images<br>change %{y:+.1f} points, 95 % interval %{customdata[4]:.1f} to "
        "%{customdata[5]:.1f}<extra></extra>",
    }
    return figure(
        [bars],
        height=320,
        title="Change of accuracy by class",
        xaxis=axis("class", type="category", tickangle=-35 if any(len(row.name) > 3 for row in rows) else 0)
        | {"automargin": True},
        yaxis=axis("points", zeroline=True),
    )
