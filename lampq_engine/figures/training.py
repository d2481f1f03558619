"""How a refinement went: loss by step, accuracy by epoch, trades of bits; from a job's journal or a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from lampq_engine.figures.style import BLUE, GREY, VERMILION, figure


@dataclass(frozen=True)
class Course:
    """The course of a training: `(step, loss)` pairs and `(epoch, top1, low, high)` rows, in percent."""

    losses: tuple[tuple[float, float], ...]
    accuracies: tuple[tuple[float, float, float, float], ...]


def course(events: Sequence[Mapping[str, Any]]) -> Course:
    """Read the course of a training from journal events or from a trial's history."""
    losses: dict[float, float] = {}
    accuracies: dict[float, tuple[float, float, float, float]] = {}
    for event in events:
        step = event.get("done", event.get("epoch"))
        if event.get("loss") is not None and step is not None:
            losses[float(step)] = float(event["loss"])
        if event.get("top1") is not None and event.get("epoch") is not None:
            top1 = float(event["top1"])
            low, high = float(event.get("low") or top1), float(event.get("high") or top1)
            accuracies[float(event["epoch"])] = (float(event["epoch"]), top1, low, high)
    return Course(tuple(sorted(losses.items())), tuple(sorted(accuracies.values())))


def loss_curve(record: Course, *, unit: str = "step") -> go.Figure:
    """Training loss against steps (or epochs), as far as it has come."""
    fig = figure(300, title="Training loss", showlegend=False)
    fig.add_trace(
        go.Scatter(
            x=[step for step, _ in record.losses],
            y=[loss for _, loss in record.losses],
            mode="lines" if len(record.losses) > 1 else "markers",
            line={"color": BLUE, "width": 2},
            hovertemplate=f"{unit} " + "%{x}: %{y:.4f}<extra></extra>",
        )
    )
    fig.update_xaxes(title={"text": unit, "standoff": 12}, rangemode="tozero")
    return fig.update_yaxes(title={"text": "loss (nats)"}, rangemode="tozero")


def accuracy_by_epoch(record: Course, *, start: float | None = None, whole: float | None = None) -> go.Figure:
    """Validation accuracy after each epoch with its 95 % interval; where it started, and float, as lines."""
    fig = figure(300, title="Validation accuracy", showlegend=False)
    rows = record.accuracies
    fig.add_trace(
        go.Scatter(
            x=[row[0] for row in rows],
            y=[row[1] for row in rows],
            error_y={
                "type": "data",
                "array": [row[3] - row[1] for row in rows],
                "arrayminus": [row[1] - row[2] for row in rows],
                "thickness": 1.5,
                "width": 4,
            },
            mode="lines+markers",
            line={"color": VERMILION, "width": 2},
            marker={"size": 8},
            hovertemplate="epoch %{x}: %{y:.1f} %<extra></extra>",
        )
    )
    for value, name, place in ((start, "before", "bottom left"), (whole, "float", "top left")):
        if value is not None:
            line = {"color": GREY, "dash": "dash", "width": 1.5}
            fig.add_hline(y=value, line=line, annotation_text=f"{name} {value:.1f} %", annotation_position=place)
    fig.update_xaxes(title={"text": "epoch", "standoff": 12}, dtick=1 if len(rows) < 12 else None)
    return fig.update_yaxes(title={"text": "top-1 accuracy (%)"})


def update_curve(events: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Accuracy on the calibration images after each attempt of the iterative bit update to trade a bit."""
    tried = [event for event in events if event.get("stage") == "update" and event.get("top1") is not None]
    trades = [f"{event['up']} up, {event['down']} down" if event.get("up") else "as it was" for event in tried]
    rows = [[trade, event.get("loss"), event.get("done")] for trade, event in zip(trades, tried, strict=True)]
    fig = figure(300, title="Accuracy on the calibration images", showlegend=False)
    fig.add_trace(
        go.Scatter(
            x=list(range(len(tried))),
            y=[float(event["top1"]) for event in tried],
            customdata=rows,
            mode="lines+markers",
            line={"color": BLUE, "width": 2, "shape": "hv"},
            marker={"size": 8},
            hovertemplate="%{customdata[0]}<br>%{y:.2f} %, loss %{customdata[1]:.4f}, "
            "%{customdata[2]} trades kept<extra></extra>",
        )
    )
    fig.update_xaxes(title={"text": "trades tried", "standoff": 12}, rangemode="tozero")
    return fig.update_yaxes(title={"text": "top-1 accuracy (%)"})
