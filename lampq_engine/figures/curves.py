"""Curves of harm and accuracy against cost: the frontier, and what was measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import plotly.graph_objects as go

from lampq_engine.figures.names import BUDGET_NAMES, COST_AXES, STAGE_NAMES
from lampq_engine.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    axis,
    figure,
    intervals,
    level,
)
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
    solved = [point.allocation for point in points if point.allocation]
    line = {
        "type": "scatter",
        "x": [getattr(allocation.cost, budget) for allocation in solved],
        "y": [_positive(allocation.solution.harm) for allocation in solved],
        "mode": "lines+markers",
        "line": {"color": SKY, "width": 2},
        "marker": {"size": 5},
        "hovertemplate": "%{x:.3g}: harm %{y:.3g}<extra></extra>",
    }
    marker = {
        "type": "scatter",
        "x": [getattr(here.cost, budget)] if here else [],
        "y": [_positive(here.solution.harm)] if here else [],
        "mode": "markers",
        "marker": {"color": VERMILION, "size": 14, "line": {"color": "white", "width": 2}},
        "hovertemplate": "this budget<br>%{x:.3g}: harm %{y:.3g}<extra></extra>",
    }
    return figure(
        [line, marker],
        height=height,
        title="Frontier",
        xaxis=axis(COST_AXES[budget], fixedrange=True),
        yaxis=axis("predicted harm", type="log", exponentformat="power", dtick=1, fixedrange=True),
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
    id: str = ""


def measured(trials: Sequence[Trial], cost: CostName) -> list[Measured]:
    """Every trial as a point, cheapest first."""
    points = []
    for trial in trials:
        low, high = trial.evaluation.interval
        group = trial.control or trial.stage
        value = getattr(trial.allocation.cost, cost)
        e = trial.evaluation
        points.append(Measured(trial.title or trial.id, group, value, e.top1, low, high, e.images, trial.id))
    return sorted(points, key=lambda point: point.cost)


def accuracy_curve(
    trials: Sequence[Trial],
    whole: Evaluation | None,
    cost: CostName,
    *,
    marked: Collection[str] = (),
    others: Mapping[str, Evaluation] | None = None,
) -> go.Figure:
    """Measured accuracy with its 95 % interval against megabytes or GBOPs; float as a line with its band.

    `marked` are the ids of trials to ring; `others` are the float models of further studies, by name.
    """
    points = measured(trials, cost)
    traces = [_group([p for p in points if p.group == group], look) for group, look in GROUPS.items()]
    ring = [point for point in points if point.id in marked]
    lines = [level(one.top1, f"float {one.top1:.1f} %, {name}") for name, one in (others or {}).items()]
    return figure(
        [trace for trace in traces if trace["x"]] + ([_ring(ring)] if ring else []),
        height=400,
        title=f"Accuracy against {BUDGET_NAMES[cost].replace('Mega', 'mega')}",
        top=64,
        showlegend=True,
        shapes=[*(_float_band(whole) if whole else []), *lines],
        xaxis=axis(COST_AXES[cost]),
        yaxis=axis("top-1 accuracy (%)", range=_window(points, [whole, *(others or {}).values()])),
    )


def _group(points: Sequence[Measured], look: tuple[str, str, str, bool]) -> dict[str, Any]:
    name, color, symbol, joined = look
    values = [p.top1 for p in points]
    return {
        "type": "scatter",
        "x": [p.cost for p in points],
        "y": values,
        "error_y": intervals(values, [p.low for p in points], [p.high for p in points]),
        "customdata": [[p.name, p.low, p.high, p.images, p.id] for p in points],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{y:.1f} %, 95 % interval %{customdata[1]:.1f} to "
        "%{customdata[2]:.1f}<br>%{customdata[3]} images, cost %{x:.3g}<extra></extra>",
        "mode": "lines+markers" if joined else "markers",
        "line": {"dash": "dot", "width": 1},
        "marker": {"color": color, "size": 12 if symbol == "star" else 10, "symbol": symbol},
        "name": name,
    }


def _ring(points: Sequence[Measured]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": [p.cost for p in points],
        "y": [p.top1 for p in points],
        "mode": "markers",
        "marker": {"symbol": "circle-open", "size": 22, "color": VERMILION, "line": {"width": 2}},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _float_band(whole: Evaluation) -> list[dict[str, Any]]:
    """The float model's accuracy as a line, and its interval as a band behind everything."""
    low, high = whole.interval
    band = {"type": "rect", "xref": "x domain", "x0": 0, "x1": 1, "y0": low, "y1": high, "layer": "below"}
    look = {"fillcolor": GREY, "opacity": 0.15, "line": {"width": 0}}
    return [band | look, level(whole.top1, f"float {whole.top1:.1f} %")]


def _window(points: Sequence[Measured], floats: Sequence[Evaluation | None]) -> list[float]:
    """A range of accuracies with room around every interval, so that points do not hug the frame."""
    edges = [edge for p in points for edge in (p.low, p.high)]
    edges += [edge for whole in floats if whole for edge in whole.interval]
    low, high = (min(edges), max(edges)) if edges else (0.0, 100.0)
    room = max(1.0, 0.08 * (high - low))
    return [max(-2.0, math.floor(low - room)), min(102.0, math.ceil(high + room))]
