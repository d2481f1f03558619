"""Curves of harm and accuracy against cost: the frontier, and what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go

from lampq_engine.figures.names import BUDGET_NAMES, COST_AXES, STAGE_NAMES, number
from lampq_engine.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, figure
from lampq_engine.frontier import Point
from lampq_engine.store import Trial
from lampq_engine.types import Allocation, Evaluation

CostName = Literal["megabytes", "gbops"]

# one look for each group of trials: name, colour, symbol, whether its points are joined
GROUPS = {
    "ptq": (STAGE_NAMES["ptq"], BLUE, "circle", False),
    "updated": (STAGE_NAMES["updated"], GREEN, "diamond", False),
    "qat": (STAGE_NAMES["qat"], VERMILION, "star", False),
    "uniform": ("Uniform", GREY, "square", True),
    "random": ("Random", ORANGE, "x", False),
    "inverted": ("Inverted", PURPLE, "triangle-down", False),
}


def frontier_curve(
    points: Sequence[Point], budget: str, here: Allocation | None = None, *, height: int = 320
) -> go.Figure:
    """Least predicted harm against one budget, each point an exact solution, and where the slider stands."""
    solved = [(point, point.allocation) for point in points if point.allocation]
    fig = figure(height, title="Frontier", showlegend=False)
    fig.add_trace(
        go.Scatter(
            x=[getattr(allocation.cost, budget) for _, allocation in solved],
            y=[_positive(allocation.solution.harm) for _, allocation in solved],
            mode="lines+markers",
            line={"color": SKY, "width": 2},
            marker={"size": 5},
            hovertemplate="%{x:.3g}: harm %{y:.3g}<extra></extra>",
        )
    )
    if here is not None:
        fig.add_trace(
            go.Scatter(
                x=[getattr(here.cost, budget)],
                y=[_positive(here.solution.harm)],
                mode="markers",
                marker={"color": VERMILION, "size": 14, "line": {"color": "white", "width": 2}},
                hovertemplate="this budget<br>%{x:.3g}: harm %{y:.3g}<extra></extra>",
            )
        )
    fig.update_xaxes(title={"text": COST_AXES[budget], "standoff": 12}, fixedrange=True)
    return fig.update_yaxes(
        title={"text": "predicted harm"}, type="log", exponentformat="power", dtick=1, fixedrange=True
    )


def _positive(value: float) -> float | None:
    return value if value > 0 else None


@dataclass(frozen=True)
class Measured:
    """One measured point: what it cost, how well it did, and the 95 % interval of that, in percent."""

    name: str
    group: str
    cost: float
    top1: float
    low: float
    high: float
    images: int


def measured(trials: Sequence[Trial], cost: CostName) -> list[Measured]:
    """Every trial as a point, cheapest first."""
    points = []
    for trial in trials:
        low, high = trial.evaluation.interval
        group = trial.control or trial.stage
        value = getattr(trial.allocation.cost, cost)
        e = trial.evaluation
        points.append(Measured(trial.title or trial.id, group, value, e.top1, low, high, e.images))
    return sorted(points, key=lambda point: point.cost)


def accuracy_curve(trials: Sequence[Trial], whole: Evaluation | None, cost: CostName, *, marked: str = "") -> go.Figure:
    """Measured accuracy with its 95 % interval against megabytes or GBOPs; float as a line with its band.

    `marked` is the title of a trial to ring.
    """
    points = measured(trials, cost)
    fig = figure(400, title=f"Accuracy against {BUDGET_NAMES[cost].replace('Mega', 'mega')}")
    fig.update_layout(margin={"t": 64})
    for group, look in GROUPS.items():
        _add_group(fig, [point for point in points if point.group == group], look)
    if whole is not None:
        _add_float(fig, whole)
    ring = [point for point in points if point.name == marked]
    if ring:
        _add_ring(fig, ring)
    fig.update_xaxes(title={"text": COST_AXES[cost], "standoff": 12}, automargin=True)
    return fig.update_yaxes(title={"text": "top-1 accuracy (%)"}, range=_window(points, whole))


def _add_group(fig: go.Figure, points: Sequence[Measured], look: tuple[str, str, str, bool]) -> None:
    if not points:
        return
    name, color, symbol, joined = look
    fig.add_trace(
        go.Scatter(
            x=[p.cost for p in points],
            y=[p.top1 for p in points],
            error_y={
                "type": "data",
                "array": [p.high - p.top1 for p in points],
                "arrayminus": [p.top1 - p.low for p in points],
                "thickness": 1.5,
                "width": 4,
            },
            customdata=[[p.name, p.low, p.high, p.images] for p in points],
            hovertemplate="<b>%{customdata[0]}</b><br>%{y:.1f} %, 95 % interval %{customdata[1]:.1f} to "
            "%{customdata[2]:.1f}<br>%{customdata[3]} images, cost %{x:.3g}<extra></extra>",
            mode="lines+markers" if joined else "markers",
            line={"dash": "dot", "width": 1},
            marker={"color": color, "size": 12 if symbol == "star" else 10, "symbol": symbol},
            name=name,
        )
    )


def _add_float(fig: go.Figure, whole: Evaluation) -> None:
    low, high = whole.interval
    fig.add_hrect(y0=low, y1=high, fillcolor=GREY, opacity=0.15, line_width=0, layer="below")
    fig.add_hline(
        y=whole.top1,
        line={"color": GREY, "dash": "dash", "width": 1.5},
        annotation_text=f"float {whole.top1:.1f} %",
        annotation_position="top left",
    )


def _add_ring(fig: go.Figure, points: Sequence[Measured]) -> None:
    fig.add_trace(
        go.Scatter(
            x=[p.cost for p in points],
            y=[p.top1 for p in points],
            mode="markers",
            marker={"symbol": "circle-open", "size": 22, "color": VERMILION, "line": {"width": 2}},
            hoverinfo="skip",
            showlegend=False,
        )
    )


def _window(points: Sequence[Measured], whole: Evaluation | None) -> list[float]:
    """A range of accuracies with room around every interval, so that points do not hug the frame."""
    edges = [edge for p in points for edge in (p.low, p.high)] + list(whole.interval if whole else ())
    low, high = (min(edges), max(edges)) if edges else (0.0, 100.0)
    room = max(1.0, 0.08 * (high - low))
    return [max(-2.0, math.floor(low - room)), min(102.0, math.ceil(high + room))]


def describe(point: Measured) -> str:
    """One line of text about a measured point."""
    return f"{point.name}: {point.top1:.1f} % ({point.low:.1f} to {point.high:.1f}) at {number(point.cost)}"
